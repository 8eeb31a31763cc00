"""How fast latents are sampled, against recomputing a 16-frame window in every iteration."""

import math
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ardiffusion.diffusion.ad import ad_iterations
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.spans import Span
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.flops import counted, sizes_of
from ardiffusion.nn.packed import packed
from ardiffusion.tools.options import device_of
from experiments.benchmarks.measure import (
    Result,
    matrix_rate,
    peak_memory,
    print_results,
    randomize_zero_weights,
    seconds_of,
    wait_for,
)


def sample(
    device: str = "cpu",
    width: int = 384,
    depth: int = 12,
    heads: int = 6,
    frames: int = 128,
    steps: int = 50,
    differences: list[int] = [5, 10, 25, 50],  # noqa: B006 jsonargparse shows the default
    batch: int = 1,
    part: int = 40,
    compile: bool = False,
) -> None:
    """Sample latents of 32 tokens with a random network, fast and naively.

    Args:
        device: cpu or cuda.
        width: Number of channels of the network.
        depth: Number of its blocks.
        heads: Number of its attention heads.
        frames: Frames per video.
        steps: Denoising steps per frame.
        differences: Steps between neighbouring frames, one measurement each.
        batch: Videos at once.
        part: Iterations that are timed, once the pipeline is full; the rest is scaled from them.
            The window is evaluated in between, and scaled too.
        compile: Whether to compile the network with torch.compile.
    """
    place = device_of(device)
    with place:  # where weights are drawn much faster, if it is a GPU
        net = random_network(width=width, depth=depth, heads=heads)
    half = deepcopy(net).to(torch.bfloat16)
    noise = torch.randn(batch, frames, 32, 4, device=place)
    results = [*compare_latents(net, half, steps=steps), *time_one_frame(net, half)]
    if compile:
        net.compile(dynamic=False)
        half.compile(dynamic=False)
    static = True if compile else None
    results += time_differences(net, half, noise, steps, differences, part=part, static=static)
    print_results([*results, Result("peak memory", peak_memory(place), "GB")], device=place)


def random_network(**sizes: int) -> ARDiT:
    """Make a network whose output depends on everything, which a new one's does not."""
    torch.manual_seed(0)
    return randomize_zero_weights(ARDiT(**sizes).eval().requires_grad_(False))


class UncachedWindow:
    """The same network without its cache: the sampler then recomputes the sliding window."""

    strictly_causal = False
    conditional = False

    def __init__(self, net: ARDiT) -> None:
        self.net, self.window = net, net.window

    def __call__(self, x_t: Tensor, t: Tensor, *args: object, **given: object) -> Tensor:
        return self.net(x_t, t)

    def make_cache(self, *args: object, **given: object) -> Any:  # noqa: ANN401
        return self

    def advance(self, frames: int) -> None:
        """Keep nothing."""


class FrameCounter(UncachedWindow):
    """A network that does nothing but count the frames that it is asked for."""

    strictly_causal = True

    def __init__(self) -> None:
        self.window, self.frames = 16, 0

    def __call__(self, x_t: Tensor, t: Tensor, *args: object, **given: object) -> Tensor:
        self.frames += x_t.shape[1]
        return x_t


def compare_latents(net: ARDiT, half: ARDiT, steps: int) -> Iterator[Result]:
    """Compare the latents of 16 frames at a difference of 5."""
    device = net.embed.weight.device
    noise = torch.randn(1, 16, 32, 4, generator=torch.Generator().manual_seed(0)).to(device)
    sampler = Sampler(NoiseSchedule(), steps=steps, difference=min(5, steps))
    fast, low, slow = (sampler.sample(d, noise) for d in (net, half, UncachedWindow(net)))
    error = float((fast - slow).abs().max() / slow.abs().max())
    if not error <= 1e-4:
        raise ValueError(
            f"Fast and naive sampling differ by {error:.1e} of the latents; report it."
        )
    yield Result("cached against window, latents, largest deviation", error, "of the largest")
    deviation = float((low - fast).square().mean().sqrt() / fast.square().mean().sqrt())
    yield Result("bfloat16 against float32, latents, rms deviation", deviation, "of the rms")


@torch.no_grad()
def time_one_frame(net: ARDiT, half: ARDiT) -> Iterator[Result]:
    """Say how near to its bounds an evaluation of one frame behind 15 finished ones is."""
    device = net.embed.weight.device
    for name, network in (("float32", net), ("bfloat16", half)):
        layers = [
            module
            for path, module in network.named_modules()
            if isinstance(module, nn.Linear) and path.startswith("blocks") and "modul" not in path
        ]
        dtype = network.embed.weight.dtype
        inputs = [torch.randn(32, m.in_features, device=device, dtype=dtype) for m in layers]

        calls = [packed(nn.Sequential(layer)) for layer in layers]

        def products(calls: list[nn.Sequential] = calls, inputs: list[Tensor] = inputs) -> None:
            for call, x in zip(calls, inputs, strict=True):
                call(x)

        bound = seconds_of(products, device, repeats=20)
        whole = seconds_of(one_evaluation(network), device, repeats=20)
        weights = sum(m.weight.numel() for m in layers)
        title = f"one frame, {name}"
        yield Result(f"{title}: evaluation", 1e3 * whole, "ms")
        yield Result(f"{title}: its linear layers alone", 1e3 * bound, "ms")
        yield Result(f"{title}: rate of these", 2 * 32 * weights / bound / 1e9, "GFLOP/s")
        yield Result(f"{title}: weights they read", weights * dtype.itemsize / bound / 1e9, "GB/s")
    for dtype in (torch.float32, torch.bfloat16):
        rate = matrix_rate(device, dtype=dtype)
        yield Result(f"one large matrix product, {dtype}", rate / 1e9, "GFLOP/s")


def one_evaluation(net: ARDiT) -> Callable[[], Tensor]:
    """Return a function that evaluates one frame behind a full window."""
    device = net.embed.weight.device
    cache = net.make_cache(1, net.window, device, timesteps=torch.tensor([0, 500]))
    t = torch.zeros(1, net.window, dtype=torch.int64, device=device)
    x = torch.randn(1, net.window, 32, 4, device=device)
    net(x, t, cache=cache)
    cache.advance(net.window - 1)
    return lambda: net(x[:, :1], t[:, :1] + 500, cache=cache)


def frame_flops(dit: ARDiT) -> int:
    """Count the operations of all blocks for one frame behind a full window in the cache."""
    with torch.device("meta"):
        copy = type(dit)(**dict(sizes_of(dit)))
        context = copy.make_cache(1, frames=1, device=copy.position.device)
        context.advance(dit.window - 1)
        found = counted(copy, frames=1, cache=context)
    return sum(count for name, count in found.items() if re.search(r"\.blocks\.\d+$", name))


@torch.no_grad()
def time_differences(
    net: ARDiT,
    half: ARDiT,
    noise: Tensor,
    steps: int,
    differences: list[int],
    part: int,
    static: bool | None,
) -> Iterator[Result]:
    """Time every difference, cached in float32 and in bfloat16, in turns with the window.

    On a GPU the sampler replays CUDA graphs unless `static` says otherwise, so that bfloat16 is
    timed without them, too.
    """
    frames = noise.shape[1]
    ways = [("float32", net, static), ("bfloat16", half, static)]
    if static is None and noise.device.type == "cuda":
        ways.append(("bfloat16 without CUDA graphs", half, False))
    for s in differences:
        counter = FrameCounter()
        Sampler(NoiseSchedule(), steps=steps, difference=s, static=False).sample(
            counter, noise[:1].cpu()
        )
        title = f"F={frames} s={s}"
        yield Result(f"{title}: frame evaluations at least", frames * steps, "")
        yield Result(f"{title}: frame evaluations", counter.frames, "")
        for name, network, fixed in ways:
            sampler = Sampler(NoiseSchedule(), steps=steps, difference=s, static=fixed)
            window, seconds = time_in_turns(network, packed(net), sampler, noise, part=part)
            done = len(noise) * counter.frames * frame_flops(net)
            yield Result(f"{title}: window, float32", window, "s")
            yield Result(f"{title}: cached, {name}", seconds, "s")
            yield Result(f"{title}: cached, {name}, faster than window", window / seconds, "x")
            yield Result(f"{title}: cached, {name}, computed", done / seconds / 1e9, "GFLOP/s")


class Enough(Exception):
    """Enough iterations have been timed."""


def time_in_turns(
    network: ARDiT, net: ARDiT, sampler: Sampler, noise: Tensor, part: int
) -> tuple[float, float]:
    """Time a run, scaled from a part, and in between what recomputes a window of 16 frames.

    Returns:
        The seconds of recomputing the window in every iteration, and those of the run.
    """
    frames, device, s = noise.shape[1], noise.device, max(sampler.difference, 1)
    total = ad_iterations(frames, steps=sampler.steps, difference=sampler.difference)
    skip, turn = sampler.steps + 15 * s, s * math.ceil(10 / s)  # a full pipeline; whole cycles
    if total < skip + max(part, 3 * turn):  # short enough to be timed whole
        skip, part = 0, total
    window = noise[:, :16].clone()
    t = torch.randint(1000, window.shape[:2], device=device)
    turns, windows, seen, begun = [], [], 0, time.perf_counter()

    def progress(_: Span) -> None:
        nonlocal seen, begun
        seen += 1
        if seen > skip and ((seen - skip) % turn == 0 or seen == total):
            wait_for(device)
            turns.append(time.perf_counter() - begun)
            windows.append(seconds_of(lambda: net(window, t), device, repeats=1, warm_up=0))
            if seen - skip >= max(part, 3 * turn):
                raise Enough
        if seen >= skip and (seen - skip) % turn == 0:
            wait_for(device)
            begun = time.perf_counter()

    with suppress(Enough):
        for _ in sampler.stream(network, noise, progress=progress):
            pass
    whole = sum(turns) if part == total else statistics.median(turns) / turn * total
    return statistics.median(windows) * total, whole
