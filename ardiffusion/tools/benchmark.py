"""Speed, measured: `python -m ardiffusion.tools.benchmark [timesteps|data]`, all by default.

Numbers are medians of several runs on an otherwise idle machine; the last line is one JSON object.
"""

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from ardiffusion.data.synthetic import skies
from ardiffusion.data.video import write_video
from ardiffusion.diffusion.timesteps import FoPP
from ardiffusion.training.data import VideoDataModule

Result = tuple[str, float, str]


def timesteps() -> Iterator[Result]:
    """Time FoPP for batches of 16 clips at T = 1000."""
    for frames in (16, 128, 1024):
        draw = FoPP(1000)
        seconds = median(lambda frames=frames, draw=draw: draw(16, frames), repeats=200)
        yield f"FoPP, 16 clips x {frames} frames, T = 1000", 1e3 * seconds, "ms"


def data() -> Iterator[Result]:
    """Time one worker of the data module: clips of 16 frames at 256 x 256 from H.264 files."""
    for height, width in ((240, 320), (720, 1280)):
        with tempfile.TemporaryDirectory() as folder:
            write_clips(Path(folder), height=height, width=width, videos=4, frames=64)
            rate = clips_per_second(folder, clips=48)
        yield f"clips of 16 frames from {width} x {height}, one worker", rate, "clips/s"


MODES: dict[str, Callable[[], Iterator[Result]]] = {"timesteps": timesteps, "data": data}


def median(call: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of a call, after a warm-up."""
    for _ in range(3):
        call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def write_clips(folder: Path, height: int, width: int, videos: int, frames: int) -> None:
    """Write procedural videos of any size."""
    for i in range(videos):
        video = skies(i % 4, frames, 128, torch.Generator().manual_seed(i))
        write_video(folder / f"{i}.mp4", frames=F.interpolate(video, size=(height, width)))


def clips_per_second(root: str, clips: int) -> float:
    """Return how many random clips one worker process reads in a second."""
    module = VideoDataModule(
        root=root,
        batch_size=4,
        workers=1,
        clips_per_video=clips,
        val_fraction=0.0,
        cache=str(Path(root) / "cache"),
    )
    module.prepare_data()
    module.setup("fit")
    batches = iter(module.train_dataloader())
    for _ in range(3):  # start the worker and drain what it has prefetched
        next(batches)
    start = time.perf_counter()
    for _ in range(clips // 4):
        next(batches)
    return clips / (time.perf_counter() - start)


def main(args: list[str] | None = None) -> None:
    """Run the command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("mode", nargs="?", choices=list(MODES), help="what to measure")
    mode = parser.parse_args(args).mode
    modes = [mode] if mode else list(MODES)
    machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    table = Table("what", "value", "unit", title=f"torch {torch.__version__}, {machine}")
    numbers = {}
    for name in modes:
        for what, value, unit in MODES[name]():
            table.add_row(what, f"{value:.3g}", unit)
            numbers[f"{what}, {unit}"] = round(value, 4)
    Console().print(table)
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
