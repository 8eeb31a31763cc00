"""Whether generating takes the same memory however long the video, from noise to the MP4 file.

Each length runs in a process of its own, because the peak memory of a process never falls.
"""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ardiffusion.data.writer import VideoWriter
from ardiffusion.generator import Generator
from ardiffusion.nn.arvae import ARVAE
from ardiffusion.nn.dit import ARDiT
from ardiffusion.tools.options import device_of
from experiments.benchmarks.measure import Result, peak_memory, print_results


class Sizes(NamedTuple):
    """What is generated, and with which networks."""

    resolution: int
    width: int
    depth: int
    steps: int
    difference: int
    batch: int


def memory(
    device: str = "cpu",
    frames: tuple[int, ...] = (200, 2000),
    resolution: int = 64,
    width: int = 32,
    depth: int = 2,
    steps: int = 4,
    difference: int = 1,
    batch: int = 1,
) -> None:
    """Generate a short and a long video with small random networks and compare peak memory.

    Args:
        device: Where to generate.
        frames: Lengths of the videos, shortest first.
        resolution: Height and width of a frame in pixels, a multiple of 16.
        width: Number of channels of both networks, a multiple of 4.
        depth: Number of blocks of each transformer.
        steps: Denoising steps per frame.
        difference: Distance in steps between neighbouring frames.
        batch: Videos at once.
    """
    if len(frames) < 2 or min(frames) < 1 or sorted(set(frames)) != list(frames):
        raise ValueError(f"--frames is {list(frames)}: give two lengths or more, shortest first.")
    place = device_of(device)
    sizes = Sizes(resolution, width, depth, steps=steps, difference=difference, batch=batch)
    peaks = [peak_of_process(length, sizes, device=device) for length in frames]
    growth = 1e6 * (peaks[-1] - peaks[0]) / (frames[-1] - frames[0])
    results = [
        *(
            Result(f"peak memory of {f} frames", p, "GB")
            for f, p in zip(frames, peaks, strict=True)
        ),
        Result(f"{frames[-1]} over {frames[0]} frames", peaks[-1] / peaks[0], "x"),
        Result("growth per frame", growth, "kB"),
    ]
    print_results(results, device=place)


def peak_of_process(frames: int, sizes: Sizes, device: str) -> float:
    """Generate in a fresh process and return its peak memory in GB."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_of_stream, frames, sizes, device).result()


def peak_of_stream(frames: int, sizes: Sizes, device: str) -> float:
    """Generate, decode and write videos frame by frame; return the peak memory so far in GB."""
    torch.manual_seed(0)
    arvae = ARVAE(
        resolution=sizes.resolution,
        width=sizes.width,
        depth=sizes.depth,
        heads=4,
        temporal=True,
        pixel_width=8,
        codebook=64,
        embedding=16,
    ).to(device)
    dit = ARDiT(width=sizes.width, depth=sizes.depth, heads=4, tokens=arvae.tokens).to(device)
    generator = Generator(dit, arvae, steps=sizes.steps, difference=sizes.difference)
    video = generator.stream(range(sizes.batch), frames=frames)
    with tempfile.TemporaryDirectory() as folder:
        write(video, folder=Path(folder), batch=sizes.batch)
    return peak_memory(torch.device(device))


def write(video: Iterator[Tensor], folder: Path, batch: int) -> None:
    """Write the frames of some videos, uint8 (B, 3, H, W), as they come."""
    with ExitStack() as stack:
        writers = [stack.enter_context(VideoWriter(folder / f"{i}.mp4")) for i in range(batch)]
        for frame in video:
            for writer, picture in zip(writers, frame.cpu(), strict=True):
                writer.write(picture)
