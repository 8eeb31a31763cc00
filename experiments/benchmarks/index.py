"""How long a data set of many clips takes to open, to split and to go on with, and its memory."""

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ardiffusion.data.catalog import SplitRule
from ardiffusion.data.footage import Footage
from ardiffusion.data.index import Found, VideoIndex, identity, index_file
from ardiffusion.data.loader import Batched, EpochBatches, ResumableLoader
from ardiffusion.data.spans import FrameSpan
from ardiffusion.data.windows import EveryWindow, RandomWindows
from experiments.benchmarks.measure import Result, peak_memory, print_results

PER_FOLDER, FRAMES = 1000, 100


class Nothing:
    """Reads clips of which nobody looks at the frames."""

    name, place = "video", Path("nowhere")

    def read(self, span: FrameSpan, first: int, frames: int, step: int) -> Tensor:
        return torch.zeros(frames, 1)


def index(clips: int = 100_000) -> None:
    """Open a data set whose videos are in the index, cut clips, and go on in an epoch.

    The videos are empty files, as the index tells what is in them.

    Args:
        clips: Videos of the data set.
    """
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "data", Path(folder) / "cache"
        paths = [f"{i // PER_FOLDER:06d}/{i % PER_FOLDER:03d}.mp4" for i in range(clips)]
        for number in range(0, clips, PER_FOLDER):
            (root / f"{number // PER_FOLDER:06d}").mkdir(parents=True)
        for path in paths:
            (root / path).touch()
        time.sleep(2.1)  # then the index trusts their times
        results = [*write_index(root, paths, cache=cache)]
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
            results += pool.submit(open_data, root, cache).result()
    print_results(results, device=torch.device("cpu"))


@contextmanager
def timed(results: list[Result], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    results.append(Result(name, time.perf_counter() - start, "s"))


def write_index(root: Path, paths: list[str], cache: Path) -> list[Result]:
    """Write what looking into the videos would have found, as many at once as that writes."""
    results: list[Result] = []
    file = VideoIndex(index_file(cache))
    keys = np.random.default_rng(0).integers(1, 2**63 - 1, len(paths)).tolist()
    found = [
        Found(identity(str(root / path)), key, frames=FRAMES)
        for path, key in zip(paths, keys, strict=True)
    ]
    with timed(results, "writing the index"):
        for start in range(0, len(found), 64):
            file.add(found[start : start + 64])
    size = index_file(cache).stat().st_size
    return [*results, Result("size of the index", size / 1e6, "MB")]


def open_data(root: Path, cache: Path) -> list[Result]:
    """Open the data set in a fresh process, whose memory nothing else has filled."""
    results: list[Result] = []
    before = peak_memory(torch.device("cpu"))
    with timed(results, "opening the index"):
        VideoIndex(index_file(cache))
    footage = Footage(SplitRule(root, {}), frames=16, max_broken=0.0, cache=str(cache))
    with timed(results, "finding, looking up and splitting the videos"):
        _ = footage.catalog
    with timed(results, "cutting them into clips"):
        every = EveryWindow(Nothing(), footage.videos["train"], frames=16)
        len(every)
    batches = EpochBatches(RandomWindows(every), batch_size=8)
    loader = ResumableLoader(Batched(RandomWindows(every)), batch_size=None, sampler=batches)
    with timed(results, "first batch"):
        next(iter(loader))
    batches.start = len(every) // 20
    with timed(results, "first batch after going on within an epoch"):
        next(iter(loader))
    growth = peak_memory(torch.device("cpu")) - before
    return [*results, Result("peak memory, over that of the program", growth, "GB")]
