"""How long a data set of many clips takes to open, to split and to go on with, and its memory."""

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ardiffusion.data.cache import Header, write_shard
from ardiffusion.data.cache_index import (
    INDEX,
    Origin,
    describe,
    place_clips,
    read_index,
    write_index,
)
from ardiffusion.data.catalog import Catalog, SplitRule
from ardiffusion.data.footage import Footage
from ardiffusion.data.index import Found, VideoIndex, identity, index_file
from ardiffusion.data.loader import Batched, EpochBatches, ResumableLoader
from ardiffusion.data.spans import FrameSpan
from ardiffusion.data.windows import EveryWindow, RandomWindows
from experiments.benchmarks.measure import Result, peak_memory, print_results

PER_FOLDER, PER_SHARD, FRAMES = 1000, 256, 100
STAMP = "1:1000000:1700000000000000000:0123456789abcdef"


class Nothing:
    """Reads clips of which nobody looks at the frames."""

    name, place = "video", Path("nowhere")

    def read(self, span: FrameSpan, first: int, frames: int, step: int) -> Tensor:
        return torch.zeros(frames, 1)


def index(clips: int = 100_000) -> None:
    """Open a data set whose videos are in the index, cut clips, and go on in an epoch.

    The videos are empty files, as the index tells what is in them. The same is done with a cache
    of their latents, of one clip each, whose frames have one number.

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
        results = [*fill_index(root, paths, cache=cache)]
        write_latents(latents := Path(folder) / "latents", paths)
        fresh: list[Callable[[], list[Result]]] = [
            partial(open_data, root, cache),
            partial(open_latents, latents),
        ]
        for work in fresh:
            with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
                results += pool.submit(work).result()
    print_results(results, device=torch.device("cpu"))


@contextmanager
def timed(results: list[Result], name: str) -> Iterator[None]:
    """Measure seconds on the clock, and those of the processor, which others do not disturb."""
    start, used = time.perf_counter(), time.process_time()
    yield
    results.append(Result(name, time.perf_counter() - start, "s"))
    results.append(Result(f"{name}, on the processor", time.process_time() - used, "s"))


def fill_index(root: Path, paths: list[str], cache: Path) -> list[Result]:
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
    begin_and_go_on(every, results, "clips")
    growth = peak_memory(torch.device("cpu")) - before
    return [*results, Result("peak memory, over that of the program", growth, "GB")]


def begin_and_go_on(every: EveryWindow, results: list[Result], what: str) -> None:
    """Read a first batch at the beginning of an epoch, and within one."""
    order = EpochBatches(RandomWindows(every), batch_size=8)
    for place in (0, every.videos // 2):
        loader = ResumableLoader(Batched(RandomWindows(every)), batch_size=None, sampler=order)
        loader.load_state_dict({"epoch": 0, "samples": place})
        with timed(results, f"first batch of {what}, {place} before it"):
            next(iter(loader))


def write_latents(folder: Path, paths: list[str]) -> None:
    """Write a finished latent cache."""
    origin: Origin = {"fingerprint": "", "resolution": 64, "frames": 16, "stride": 1}
    splits, numbers = SplitRule(folder, {}).split(paths), {p: n for n, p in enumerate(paths)}
    hashes, shards = dict[str, str](), dict[str, list[str]]()
    for number, start in enumerate(range(0, len(paths), PER_SHARD)):
        own = paths[start : start + PER_SHARD]
        keys, name = [f"{path}:0" for path in own], f"000-{number:06d}.safetensors"
        header: Header = {"origin": origin, "keys": keys, "stamps": dict.fromkeys(own, STAMP)}
        shard = write_shard(folder / name, header, torch.zeros(len(own), 16, 1, 1))
        hashes[name], shards[name] = shard.hash, keys
    catalog: Catalog = {
        "classes": [],
        "paths": paths,
        "labels": [-1] * len(paths),
        "lengths": [FRAMES] * len(paths),
        "splits": {name: [numbers[path] for path in own] for name, own in splits.items()},
    }
    index = describe(catalog, origin, lambda _: STAMP, complete=True)
    index = place_clips({**index, "hashes": hashes}, missing=[], shards=shards)
    write_index(folder / INDEX, index)


def open_latents(folder: Path) -> list[Result]:
    """Open the latent cache in a fresh process."""
    results: list[Result] = []
    before = peak_memory(torch.device("cpu"))
    with timed(results, "reading the index of the latents"):
        read_index(folder)
    footage = Footage(SplitRule(folder, {}), frames=16, latents=folder)
    with timed(results, "opening the latents, with all of their shards"):
        reader, spans = footage.source("train")
        every = footage.cut(reader, spans)
    begin_and_go_on(every, results, "latents")
    growth = peak_memory(torch.device("cpu")) - before
    return [*results, Result("peak memory with latents, over that of the program", growth, "GB")]
