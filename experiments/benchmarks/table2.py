"""The supplement's Table 2: time and memory for videos of 16 and 128 frames, with our row."""

import json
import time
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table

from ardiffusion.diffusion.ad import ad_iterations
from ardiffusion.generator import Generator
from ardiffusion.nn.arvae import ARVAE
from ardiffusion.nn.autoencoder import together
from ardiffusion.tools.options import device_of
from experiments.benchmarks.measure import name_device, peak_memory, wait_for
from experiments.benchmarks.sample import random_network

# Method, peak memory in GB, seconds for 16 and for 128 frames, as printed in Table 2 of the
# supplement of AR-Diffusion (Sun et al., CVPR 2025), measured by its authors on an A800.
PRINTED = (
    ("Latte", "14.7", "6.8", "52.0"),
    ("FIFO", "8.5", "595.8", "1639.8"),
    ("TATS (128 x 128 from F=128 on)", "4.1", "14.8", "49.9"),
    ("VIDM (128 x 128 from F=128 on)", "35.5", "115.9", "380.0"),
    ("AR-Diffusion", "8.6", "3.1", "45.8"),
)


def table2(
    device: str = "cpu",
    precision: Literal["float32", "bfloat16"] = "bfloat16",
    frames: list[int] = [16, 128],  # noqa: B006 jsonargparse shows the default
    steps: int = 50,
    difference: int = 5,
    part: int = 0,
    width: int = 1152,
    depth: int = 28,
    heads: int = 16,
    arvae_width: int = 1024,
    arvae_depth: int = 24,
    resolution: int = 256,
) -> None:
    """Generate one video with random networks of the paper's sizes, decoding included.

    Args:
        device: cpu or cuda.
        precision: Type of the weights.
        frames: Lengths of the videos.
        steps: Denoising steps per frame.
        difference: Steps between neighbouring frames.
        part: Stop after so many frames and scale the time from them; 0 generates all.
        width: Number of channels of the transformer.
        depth: Number of its blocks.
        heads: Number of its attention heads.
        arvae_width: Number of channels of the AR-VAE.
        arvae_depth: Number of its blocks.
        resolution: Height and width of a frame.
    """
    place, dtype = device_of(device), getattr(torch, precision)
    with place:  # where weights are drawn much faster, if it is a GPU
        dit = random_network(width=width, depth=depth, heads=heads).to(dtype)
        arvae = ARVAE(resolution=resolution, width=arvae_width, depth=arvae_depth, temporal=True)
    arvae = arvae.to(dtype).eval().requires_grad_(False)
    generator = Generator(dit, arvae, steps=steps, difference=difference)

    def run(count: int) -> float:
        """Return the seconds for a video of `count` frames."""
        stop, marks = min(part or count, count), [time.perf_counter()]
        for frame in generator.stream([0], frames=count, together=together(place)):
            wait_for(frame.device)
            marks.append(time.perf_counter())
            if len(marks) > stop:
                break
        rest = (count - stop) * (marks[-1] - marks[(stop + 1) // 2]) / max(stop // 2, 1)
        return marks[-1] - marks[0] + rest

    run(min(frames))  # warm up
    seconds = [run(count) for count in frames]
    show_rows(frames, seconds, memory=peak_memory(place), device=place, scaled=part)
    iterations = [ad_iterations(count, steps=steps, difference=difference) for count in frames]
    numbers = {f"F={c}, s": round(s, 3) for c, s in zip(frames, seconds, strict=True)}
    numbers |= {f"F={c}, iterations": n for c, n in zip(frames, iterations, strict=True)}
    numbers["peak memory, GB"] = round(peak_memory(place), 3)
    print(json.dumps({"device": name_device(place), "precision": precision, **numbers}))


def show_rows(
    frames: list[int], seconds: list[float], memory: float, device: torch.device, scaled: int
) -> None:
    """Print the table: our row as measured, the others as printed in the paper."""
    table = Table("method", "peak memory", *(f"F={count}" for count in frames), "where from")
    for name, peak, *printed in PRINTED:
        known = dict(zip((16, 128), printed, strict=True))
        cells = [f"{known[count]} s" if count in known else "" for count in frames]
        table.add_row(name, f"{peak} GB", *cells, "as printed, A800")
    source = f"measured, {name_device(device)}"
    if scaled:
        source += f", scaled from the first {scaled} frames"
    cells = [f"{s:.3g} s" for s in seconds]
    table.add_row("ardiffusion", f"{memory:.1f} GB", *cells, source)
    Console().print(table)
