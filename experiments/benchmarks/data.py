"""How fast training timesteps are drawn and clips are read."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

from ardiffusion.data.synthetic import skies
from ardiffusion.data.writer import write_video
from ardiffusion.diffusion.timesteps import FoPP
from ardiffusion.tools.options import device_of
from ardiffusion.training.data import VideoDataModule
from experiments.benchmarks.measure import Result, print_results, seconds_of


def data(device: str = "cpu") -> None:
    """Draw timesteps, and read clips with one worker of the data module.

    Args:
        device: Where timesteps are drawn; clips are read on the CPU.
    """
    place = device_of(device)
    print_results([*timesteps(place), *clips()], device=place)


def timesteps(device: torch.device) -> Iterator[Result]:
    """Time FoPP for batches of 16 clips at T = 1000."""
    for frames in (16, 128, 1024):
        draw = FoPP(1000)
        seconds = seconds_of(
            lambda frames=frames, draw=draw: draw(16, frames, device=device), device, repeats=200
        )
        yield Result(f"FoPP, 16 clips x {frames} frames, T = 1000", 1e3 * seconds, "ms")


def clips() -> Iterator[Result]:
    """Time one worker of the data module: clips of 16 frames at 256 x 256 from H.264 files."""
    for height, width in ((240, 320), (720, 1280)):
        with tempfile.TemporaryDirectory() as folder:
            write_clips(Path(folder), height=height, width=width, videos=4, frames=64)
            rate = clips_per_second(folder, clips=48)
        yield Result(f"clips of 16 frames from {width} x {height}, one worker", rate, "clips/s")


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
