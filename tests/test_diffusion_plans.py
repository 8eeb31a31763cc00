import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from naive_sampler import SCHEDULE
from torch import Tensor
from torch.testing import assert_close

from ardiffusion.diffusion.ad import Iteration, ad_plan, ad_rows, check_plan
from ardiffusion.diffusion.plans import AD, FIFO, FixedPlan, Plan
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.solver import DDIM, DPMSolver2M, PublishedDDIM, Solver
from ardiffusion.diffusion.target import Epsilon
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.joint import JointDiT


def tiny(network: type[ARDiT] = JointDiT, window: int = 4, classes: int = 0) -> ARDiT:
    torch.manual_seed(0)
    sizes = {"width": 8, "depth": 2, "heads": 2, "tokens": 2, "channels": 3}
    net = network(**sizes, window=window, classes=classes).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net.eval()


def noise(frames: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, frames, 2, 3, generator=generator, dtype=torch.float64)


@torch.no_grad()
def naive_fifo(net: ARDiT, x: Tensor, steps: int, block: int, ready: int = 0) -> Tensor:
    """Keep a queue of frames, move it block by block and take the head out when it is clean."""
    tau = [-(-(steps - k) * 100 // steps) - 1 for k in range(steps)] + [0]
    abar = [SCHEDULE.alphas_cumprod[tau[k]].item() for k in range(steps)] + [1.0]
    video, frames = list(x.unbind(dim=1)), x.shape[1]
    level = [steps] * ready + [0] * (frames - ready)
    waiting, queue = list(range(ready, frames)), []
    while queue or waiting:
        queue += [waiting.pop(0)] if waiting else []
        for i in reversed(range(0, len(queue), block)):
            moved = queue[i : i + block]
            end = max(moved[-1] + 1, min(net.window, frames))
            seen = list(range(max(end - net.window, 0), end))
            t = torch.tensor([tau[level[f]] for f in seen]).expand(len(x), -1)
            out = net(torch.stack([video[f] for f in seen], dim=1), t)
            for f in moved:
                a, s, eps = abar[level[f]], abar[level[f] + 1], out[:, seen.index(f)]
                x_0 = (video[f] - (1 - a) ** 0.5 * eps) / a**0.5
                video[f] = s**0.5 * x_0 + (1 - s) ** 0.5 * eps
                level[f] += 1
        if level[queue[0]] == steps:
            queue.pop(0)
    return torch.stack(video, dim=1)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(
    ("steps", "window", "frames", "block", "ready"),
    [
        (8, 4, 11, None, 0),  # two windows in flight, lookahead denoising
        (4, 4, 9, None, 0),
        (4, 4, 9, None, 2),
        (8, 4, 13, 4, 0),  # latent partitioning alone
        (9, 4, 14, None, 7),
        (7, 3, 10, None, 1),
        (5, 4, 2, None, 0),
        (6, 1, 4, None, 0),
        (3, 6, 12, 1, 0),
    ],
)
def test_fifo_equals_a_naive_queue(
    steps: int, window: int, frames: int, block: int | None, ready: int, static: bool
) -> None:
    net, x = tiny(window=window), noise(frames, batch=2)
    sampler = Sampler(SCHEDULE, target=Epsilon(), steps=steps, difference=0, static=static)
    given: dict[str, Any] = {"prefix": x[:, :ready]} if ready else {}
    found = sampler.sample(net, x, plan=FIFO(block), **given)
    expected = naive_fifo(net, x, steps, block=block or max(window // 2, 1), ready=ready)
    assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", [DDIM(), DDIM(eta=1.0), DPMSolver2M()])
def test_a_queue_of_one_window_and_one_block_is_the_ad_schedule(solver: Solver) -> None:
    net, x, label = tiny(window=6, classes=3), noise(9, batch=2), torch.tensor([2, 0])

    def sample(plan: Plan) -> Tensor:
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        sampler = Sampler(SCHEDULE, solver=solver, steps=6, guidance=2.0, plan=plan)
        return sampler.sample(net, x, label=label, generators=generators)

    assert torch.equal(sample(FIFO(block=6)), sample(AD(1)))


def test_fifo_of_a_causal_network_is_the_ad_schedule() -> None:
    net, x = tiny(ARDiT), noise(9)
    sampler = Sampler(SCHEDULE, steps=8, difference=1)
    assert torch.equal(sampler.sample(net, x, plan=FIFO()), sampler.sample(net, x))
    rows = list(FIFO().rows(9, steps=8, window=None))
    assert rows == list(ad_rows(9, steps=8, difference=1))


def test_frames_that_are_done_stay_whatever_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, seen = tiny(window=4), noise(12), []
    evaluate = JointDiT.forward

    def watched(self: JointDiT, x_t: Tensor, *args: Any, **options: Any) -> Tensor:  # noqa: ANN401
        seen.append(x_t.clone())
        return evaluate(self, x_t, *args, **options)

    monkeypatch.setattr(JointDiT, "forward", watched)
    sampler = Sampler(SCHEDULE, solver=PublishedDDIM(), steps=10, plan=FIFO())
    video, arrivals = [], []
    for f, z in sampler.stream(net, x):
        assert f == len(video)
        video.append(z)
        arrivals.append(len(seen))
    assert arrivals[0] < arrivals[1] < arrivals[11] == len(seen) == sampler.iterations(net, 12)
    for z in video[1:7]:  # the block of the head looks back at two frames, in two iterations
        assert sum(torch.equal(z, other) for x_t in seen for other in x_t.unbind(dim=1)) == 2


@pytest.mark.parametrize("frames", [1, 5, 20])
@pytest.mark.parametrize("ready", [0, 1])
@pytest.mark.parametrize(("steps", "window", "block"), [(8, 4, None), (8, 4, 4), (7, 5, 3)])
def test_rows_move_every_frame_of_the_queue_once_an_iteration(
    frames: int, ready: int, steps: int, window: int, block: int | None
) -> None:
    size = block or window // 2
    rows = list(FIFO(block).rows(frames, steps=steps, window=window, given_frames=ready))
    level, table = [steps] * ready + [0] * (frames - ready), []
    for row in rows:
        flying = range(row.first, row.first + len(row.after))
        assert [level[f] for f in flying] == row.before
        moved = [f for f, k in zip(flying, row.after, strict=True) if k > level[f]]
        assert 1 <= len(moved) <= size and moved[-1] - moved[0] < size
        for f, k in zip(flying, row.after, strict=True):
            level[f] = k
        table.append(list(level))
    if table:
        check_plan(torch.tensor(table), steps=steps)
    whole = ad_plan(frames, steps=steps, difference=1, ready=ready).tolist()
    assert [row for row in table if row in whole] == whole
    sampler = Sampler(SCHEDULE, steps=steps, plan=FIFO(block))
    assert sampler.iterations(tiny(window=window), frames, given_frames=ready) == len(rows)


def test_a_queue_without_end_begins_like_one_with_an_end() -> None:
    net, x = tiny(), noise(20)
    sampler = Sampler(SCHEDULE, steps=8, plan=FIFO())
    stream = sampler.stream(net, x.unbind(dim=1).__getitem__)
    endless = [next(stream) for _ in range(12)]  # the last noise of 20 frames enters behind them
    assert [f for f, _ in endless] == list(range(12))
    assert torch.equal(torch.stack([z for _, z in endless], dim=1), sampler.sample(net, x)[:, :12])


def test_a_queue_adds_noise_to_frames_that_it_comes_back_to() -> None:
    net, x = tiny(), noise(20)
    sampler = Sampler(SCHEDULE, solver=DDIM(eta=1.0), steps=8, plan=FIFO())

    def made(frames: int) -> Tensor:
        return sampler.sample(net, x[:, :frames], generators=[torch.Generator().manual_seed(1)])

    assert_close(made(20)[:, :12], made(16)[:, :12])


def bytes_alive() -> int:
    gc.collect()
    tensors = [x for x in gc.get_objects() if issubclass(type(x), Tensor)]
    storages = [x.untyped_storage() for x in tensors]
    return sum({x.data_ptr(): x.nbytes() for x in storages}.values())


@torch.no_grad()
def test_memory_of_a_queue_depends_on_steps_and_window_alone() -> None:
    net, found = tiny(), []
    sampler = Sampler(SCHEDULE, solver=DPMSolver2M(), steps=8, plan=FIFO())
    draw: Callable[[int], Tensor] = lambda f: torch.zeros(1, 2, 3, dtype=torch.float64)  # noqa: E731
    before = bytes_alive()
    for frames, stops in ((40, [20]), (90, [20, 70]), (None, [20])):
        stream = sampler.stream(net, draw, frames=frames)
        for done, _ in enumerate(stream, 1):
            if done in stops:
                found.append(bytes_alive() - before)
            if done == stops[-1]:
                break
        del stream
    assert found == 4 * found[:1] and found[0] > 0


def test_plans_are_chosen_for_a_sampler_or_for_a_run() -> None:
    net, x = tiny(ARDiT), noise(6)
    sampler = Sampler(SCHEDULE, steps=4, difference=3)
    expected = sampler.sample(net, x)
    for plan in (AD(3), FixedPlan(ad_plan(6, steps=4, difference=3).tolist())):
        assert_close(sampler.sample(net, x, plan=plan), expected)
        other = Sampler(SCHEDULE, steps=4, difference=0, plan=plan)
        assert_close(other.sample(net, x), expected)
        assert other.iterations(net, frames=6) == sampler.iterations(net, frames=6) == 19
    assert torch.equal(sampler.sample(net, x, prefix=x, plan=torch.empty(0, 6).long()), x)


def test_plans_describe_themselves() -> None:
    assert AD(3).describe() == {"class": "AD", "difference": 3}
    assert FIFO(2).describe() == {"class": "FIFO", "block": 2}
    assert FixedPlan([[1], [2]]).describe() == {"class": "FixedPlan", "table": [[1], [2]]}


def test_a_table_yields_the_frames_in_flight() -> None:
    rows = list(FixedPlan([[1, 0], [2, 1], [2, 2]]).rows(2, steps=2))
    assert rows == [Iteration(0, [0], [1]), Iteration(0, [1, 0], [2, 1]), Iteration(1, [1], [2])]


def test_plans_that_cannot_be_run_are_refused() -> None:
    net = tiny()
    with pytest.raises(ValueError, match="block must be at least 1 frame, got 0"):
        FIFO(block=0)
    with pytest.raises(ValueError, match="block of 5 frames is longer than the network's window"):
        Sampler(SCHEDULE, steps=4, plan=FIFO(block=5)).sample(net, noise(6))
    with pytest.raises(ValueError, match="difference must lie between 0 and the 4 steps, got 9"):
        Sampler(SCHEDULE, steps=4, plan=AD(9)).sample(net, noise(6))
    with pytest.raises(
        ValueError, match="one step index for each frame: give all the same length"
    ):
        FixedPlan([[1, 2], [1]])
    with pytest.raises(ValueError, match="for 1 frames, the video has 6: use --frames 1"):
        Sampler(SCHEDULE, steps=2, plan=FixedPlan([[2]])).sample(net, noise(6))
    with pytest.raises(ValueError, match="block of 2 frames does nothing for a strictly causal"):
        Sampler(SCHEDULE, steps=4, plan=FIFO(block=2)).sample(tiny(ARDiT), noise(6))
    with pytest.raises(ValueError, match=r"window of 4 frames.*for long videos, --plan FIFO"):
        Sampler(SCHEDULE, steps=8, plan=AD(1)).sample(net, noise(6))
