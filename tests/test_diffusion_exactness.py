"""The sampler with its cache equals the recomputation of every frame in every iteration."""

from itertools import cycle, product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_sampler import SCHEDULE, NaiveSink, recompute
from torch import Tensor

from ardiffusion.diffusion.ad import ad_plan
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.solver import DDIM, DPMSolver2M
from ardiffusion.nn.dit import ARDiT

SIZES = {"width": 4, "depth": 2, "heads": 1, "tokens": 2, "channels": 3, "classes": 3}


def tiny(window: int) -> ARDiT:
    torch.manual_seed(0)
    net = ARDiT(**SIZES, window=window).double().eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net


def generators(batch: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(batch)]


def both_ways(
    frames: int,
    steps: int,
    difference: int,
    window: int,
    batch: int,
    guidance: float = 1.0,
    ready: int = 0,
    eta: float = 0.0,
    multistep: bool = False,
    static: bool = False,
    sink: int = 0,
    context: int = 0,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Sample with the cache and without."""
    net, ready = tiny(window).to(dtype), min(ready, frames)
    x = torch.randn(batch, frames, 2, 3, generator=generators(1)[0], dtype=dtype)
    label = torch.arange(batch) % 3
    sampler = Sampler(
        SCHEDULE,
        solver=DPMSolver2M(context) if multistep else DDIM(eta, context_timestep=context),
        steps=steps,
        difference=difference,
        guidance=guidance,
        static=static,
        sink=sink,
    )
    given: dict[str, Any] = {"prefix": x[:, :ready]} if ready else {}
    fast = sampler.sample(net, x, label=label, generators=generators(batch), **given)
    slow = recompute(
        NaiveSink(net, sink) if sink else net,
        x,
        ad_plan(frames, steps=steps, difference=difference, ready=ready),
        steps=steps,
        guidance=guidance,
        label=label,
        ready=ready,
        eta=eta,
        multistep=multistep,
        context=context,
        generators=generators(batch),
    )
    return fast, slow


def differences(steps: int) -> list[int]:
    return sorted({s for s in (0, 1, 3, 5, 10, steps) if s <= steps})


EXTRAS: list[dict[str, Any]] = [
    {},
    {"guidance": 2.0},
    {"ready": 3},
    {"eta": 0.7},
    {"multistep": True},
    {"guidance": 1.5, "ready": 1, "eta": 1.0},
    {"multistep": True, "ready": 7, "guidance": 2.0},
    {"context": 30, "eta": 1.0, "ready": 2},
    {"context": 99, "multistep": True, "guidance": 2.0},
]
GRID = [
    (frames, steps, s, window)
    for frames, steps, window in product((1, 5, 16, 40), (1, 2, 4, 10, 50), (4, 16))
    for s in differences(steps)
]


@pytest.mark.parametrize(
    ("case", "batch", "static", "extra"),
    [
        (case, batch, static, extra)
        for case, batch, static, extra in zip(
            GRID, cycle((1, 3)), cycle((False, True, False)), cycle(EXTRAS), strict=False
        )
    ],
)
def test_cache_changes_nothing(
    case: tuple[int, int, int, int], batch: int, static: bool, extra: dict[str, Any]
) -> None:
    frames, steps, difference, window = case
    fast, slow = both_ways(
        frames, steps, difference, window=window, batch=batch, static=static, **extra
    )
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10 * float(slow.abs().max()))


@pytest.mark.parametrize(
    ("case", "static", "extra"),
    [
        *zip(
            product(
                (1, 5, 12), ((4, 0), (4, 1), (5, 3), (5, 5)), ((2, 1), (4, 1), (4, 3), (6, 2))
            ),
            cycle((False, True, False, True, True)),
            cycle(EXTRAS),
            strict=False,
        )
    ],
)
def test_first_frames_that_stay_equal_a_naive_network_that_sees_them(
    case: tuple[int, tuple[int, int], tuple[int, int]], static: bool, extra: dict[str, Any]
) -> None:
    frames, (steps, difference), (window, sink) = case
    given = {**extra, "static": static, "sink": sink}
    fast, slow = both_ways(frames, steps, difference, window=window, batch=2, **given)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10 * float(slow.abs().max()))


def test_a_sink_changes_nothing_before_the_window_is_full() -> None:
    with_sink, _ = both_ways(9, 4, 1, window=4, batch=1, sink=2)
    without, _ = both_ways(9, 4, 1, window=4, batch=1)
    same = (with_sink - without).abs().amax(dim=(0, 2, 3)) < 1e-12
    assert same.tolist() == [True] * 4 + [False] * 5


def test_what_is_told_of_finished_frames_changes_those_after_them_alone() -> None:
    told, _ = both_ways(6, 4, 2, window=4, batch=1, context=30)
    usual, _ = both_ways(6, 4, 2, window=4, batch=1)
    same = (told - usual).abs().amax(dim=(0, 2, 3)) < 1e-12
    assert same.tolist() == [True] + [False] * 5


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("difference", [1, 5, 10])
@pytest.mark.parametrize("extra", EXTRAS)
def test_cache_changes_rounding_alone_in_single_precision(
    difference: int, static: bool, extra: dict[str, Any]
) -> None:
    given = {**extra, "dtype": torch.float32, "static": static}
    fast, slow = both_ways(16, 10, difference, window=4, batch=3, **given)
    assert (fast - slow).abs().max() <= 1e-5 * slow.abs().max()


@settings(max_examples=60)
@given(data=st.data())
def test_cache_changes_nothing_whatever_the_settings(data: st.DataObject) -> None:
    steps = data.draw(st.integers(1, 12), label="steps")
    multistep = data.draw(st.booleans(), label="multistep")
    fast, slow = both_ways(
        frames=data.draw(st.integers(1, 18), label="frames"),
        steps=steps,
        difference=data.draw(st.integers(0, steps), label="difference"),
        window=data.draw(st.integers(1, 6), label="window"),
        batch=data.draw(st.integers(1, 3), label="batch"),
        guidance=data.draw(st.sampled_from([1.0, 0.0, 3.0]), label="guidance"),
        ready=data.draw(st.integers(0, 18), label="ready"),
        eta=0.0 if multistep else data.draw(st.sampled_from([0.0, 0.5, 1.0]), label="eta"),
        multistep=multistep,
        static=data.draw(st.booleans(), label="static"),
        context=data.draw(st.sampled_from([0, 1, 40, 99]), label="context"),
    )
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10 * float(slow.abs().max()))


@pytest.mark.slow
def test_compiled_network_is_compiled_twice_and_equals_itself() -> None:
    x, label = torch.randn(2, 9, 2, 3), torch.tensor([0, 1])
    outs = []
    for jit in (False, True):
        net = tiny(window=4).float()
        if jit:
            torch._dynamo.utils.counters.clear()
            net.compile(dynamic=False)
        sampler = Sampler(SCHEDULE, steps=6, difference=2, guidance=2.0, static=jit)
        outs += [sampler.sample(net, x, label=label) for _ in range(2)]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert not torch._dynamo.utils.counters["graph_break"]
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=1e-4, atol=1e-5)
