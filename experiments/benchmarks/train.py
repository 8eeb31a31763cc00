"""How fast stage 2 trains from latents, against the naive way, and how well it uses the device.

A step draws timesteps and noise, runs the network forward and backward, clips the gradients and
moves the weights.
"""

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.timesteps import FoPP
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.flops import TRAINING, flops
from ardiffusion.nn.sizes import check_range
from ardiffusion.tools.options import device_of
from ardiffusion.training.callbacks.throughput import device_peak
from experiments.benchmarks.measure import (
    Result,
    matrix_rate,
    peak_memory,
    print_results,
    randomize_zero_weights,
    seconds_of,
)

TYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}
TOLERANCE = {"32-true": 1e-4, "bf16-mixed": 1e-2}  # of losses, relative
COMPARED = 4  # steps whose losses must agree


class Way(NamedTuple):
    """A way to train."""

    name: str
    precision: str
    fused: bool
    compile: bool


class Task(NamedTuple):
    """What is trained, and where."""

    network: Callable[[], ARDiT]
    frames: int
    device: torch.device


def train(
    device: str = "cpu",
    width: int = 384,
    depth: int = 12,
    heads: int = 6,
    frames: int = 16,
    batch: int = 4,
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed",
    compile: bool = False,
    steps: int = 10,
) -> None:
    """Time a training step of stage 2 with fused AdamW, and in float32 with a plain one.

    Args:
        device: Where to train.
        width: Number of channels D.
        depth: Number of transformer blocks.
        heads: Number of attention heads.
        frames: Frames per clip, of 32 tokens each.
        batch: Clips per batch; 0 is the largest power of two that fits a GPU, found per way.
        precision: Precision of the fast way.
        compile: Whether the fast way compiles the network.
        steps: Steps to take the median of.
    """
    place = device_of(device)
    check_range("--{}", 1, depth=depth, frames=frames, steps=steps)
    if batch < 0 or (batch == 0 and place.type != "cuda"):
        raise ValueError(f"--batch is {batch}: give at least 1; 0, what fits, needs a GPU.")
    network = partial(ARDiT, width=width, depth=depth, heads=heads)
    task = Task(network, frames=frames, device=place)
    fast = Way("fast", precision=precision, fused=True, compile=compile)
    naive = Way("naive", precision="32-true", fused=False, compile=False)
    check_losses(task, fast, naive)
    # The fast way first: the peak memory of a process never falls.
    sizes = {way: batch or largest_batch(task, way) for way in (fast, naive)}
    found = [result for way in sizes for result in time_way(task, way, sizes[way], steps=steps)]
    rates = {result.what: result.value for result in found}
    gain = rates["fast: trained"] / rates["naive: trained"]
    print_results([*found, Result("fast over naive, tokens per second", gain, "x")], device=place)


def time_way(task: Task, way: Way, batch: int, steps: int) -> Iterator[Result]:
    """Time a step of one way."""
    if task.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(task.device)
    step = make_step(task, way, batch=batch)
    seconds = seconds_of(step, task.device, repeats=steps)
    memory = peak_memory(task.device)
    with torch.device("meta"):
        network = task.network()
    tokens = batch * task.frames * network.tokens
    rate = batch * TRAINING * (flops(network, task.frames) or 0) / seconds
    del step
    release(task.device)
    yield Result(f"{way.name}: clips of {task.frames} frames per batch", batch, "clips")
    yield Result(f"{way.name}: step in {way.precision}", 1e3 * seconds, "ms")
    yield Result(f"{way.name}: trained", tokens / seconds, "tokens/s")
    yield Result(f"{way.name}: computed", rate / 1e12, "TFLOP/s")
    reached = matrix_rate(task.device, dtype=TYPES[way.precision])
    yield Result(f"{way.name}: one large product", reached / 1e12, "TFLOP/s")
    yield Result(f"{way.name}: MFU of that product", 100 * rate / reached, "%")
    peak = device_peak(task.device, precision=way.precision)
    if peak is not None:
        yield Result(f"{way.name}: MFU of the data sheet", 100 * rate / peak, "%")
    yield Result(f"{way.name}: peak memory", memory, "GB")


def make_step(task: Task, way: Way, batch: int) -> Callable[[], Tensor]:
    """Build a network and return a function that trains it by a step and returns the loss."""
    torch.manual_seed(0)
    with task.device:  # where weights are drawn much faster, if it is a GPU
        dit = randomize_zero_weights(task.network())
    if way.compile:
        torch.compiler.reset()  # or an earlier step's network would stay in memory
        dit.compile()
    # without `fused` torch takes what it holds best: a loop on a CPU, lists of tensors on a GPU
    optimizer = torch.optim.AdamW(dit.parameters(), lr=1e-4, fused=way.fused or None)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, task.frames, dit.tokens, dit.channels, generator=generator)
    x = F.normalize(x, dim=-1).to(task.device)  # (B, F, L, C)
    return partial(
        train_step,
        dit,
        optimizer=optimizer,
        schedule=NoiseSchedule(),
        x=x,
        generator=torch.Generator(task.device).manual_seed(0),
        dtype=TYPES[way.precision],
    )


def train_step(
    dit: ARDiT,
    optimizer: torch.optim.Optimizer,
    schedule: NoiseSchedule,
    x: Tensor,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Tensor:
    """Train on unit tokens x (B, F, L, C) as `DiffusionModule` and its trainer do."""
    t = FoPP()(len(x), x.shape[1], generator=generator, device=x.device)  # (B, F)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    mixed = dtype != torch.float32
    with torch.autocast(x.device.type, dtype=dtype, enabled=mixed, cache_enabled=False):
        output = dit(schedule.add_noise(x, noise=noise, t=t), t)
        loss = (output.float() - x).square().mean()
    loss.backward()
    nn.utils.clip_grad_norm_(dit.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def check_losses(task: Task, fast: Way, naive: Way) -> None:
    """Raise unless both ways find the same losses in their first steps."""
    losses = []
    for way in (fast, naive):
        step = make_step(task, way, batch=2)
        losses.append(torch.stack([step() for _ in range(COMPARED)]).cpu())
        del step
        release(task.device)
    off = float(((losses[0] - losses[1]).abs() / losses[1]).max())
    if not off <= TOLERANCE[fast.precision]:
        raise ValueError(
            f"The fast way's losses differ by {off:.2g} of the naive way's, more than "
            f"{TOLERANCE[fast.precision]:g}: try --compile false or --precision 32-true."
        )


def largest_batch(task: Task, way: Way) -> int:
    """Find the largest power of two of clips that a step has memory for, without compiling."""
    batch = 1
    while fits(task, way._replace(compile=False), batch=batch):
        batch *= 2
    if batch == 1:
        raise ValueError(f"Not one clip fits the {way.name} way: lower --width or --frames.")
    return batch // 2


def fits(task: Task, way: Way, batch: int) -> bool:
    """Tell whether two steps, the second with the optimiser's state, run out of memory."""
    try:
        step = make_step(task, way, batch=batch)
        for _ in range(2):
            step()
    except torch.OutOfMemoryError:
        return False
    finally:
        step = None
        release(task.device)
    return True


def release(device: torch.device) -> None:
    """Free what a way has left behind."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
