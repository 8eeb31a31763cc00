import gc
import weakref
from typing import Any

import pytest
import torch
from naive_sampler import SCHEDULE, recompute
from torch import Tensor

from ardiffusion.diffusion.ad import ad_plan
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.solver import DDIM, PublishedDDIM
from ardiffusion.diffusion.spans import Span
from ardiffusion.diffusion.target import X0, Epsilon, Target, Velocity
from ardiffusion.nn.cache import AttentionContext
from ardiffusion.nn.dit import ARDiT


def tiny(window: int = 4, classes: int = 0) -> ARDiT:
    torch.manual_seed(0)
    net = ARDiT(
        width=8, depth=2, heads=2, tokens=2, channels=3, window=window, classes=classes
    ).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net.eval()


def noise(frames: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, frames, 2, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("difference", [0, 1, 3, 6])
@pytest.mark.parametrize("frames", [1, 5, 13])
@pytest.mark.parametrize("window", [1, 4])
def test_stream_equals_full_recompute(difference: int, frames: int, window: int) -> None:
    net, x = tiny(window=window), noise(frames, batch=2)
    sampler = Sampler(SCHEDULE, steps=6, difference=difference)
    plan = ad_plan(frames, steps=6, difference=difference)
    torch.testing.assert_close(
        sampler.sample(net, x), recompute(net, x, plan, steps=6), rtol=1e-10, atol=1e-10
    )


def test_guidance_equals_two_evaluations() -> None:
    net, x, label = tiny(classes=3), noise(7, batch=2), torch.tensor([2, 0])
    sampler = Sampler(SCHEDULE, steps=4, difference=2, guidance=2.5)
    plan = ad_plan(7, steps=4, difference=2)
    expected = recompute(net, x, plan, steps=4, guidance=2.5, label=label)
    torch.testing.assert_close(sampler.sample(net, x, label=label), expected)


def test_any_plan_runs_and_the_diagonal_one_equals_ad() -> None:
    net, x = tiny(), noise(6)
    rows = ["200000", "311000", "311000", "332111", "333332", "333333"]
    ragged = torch.tensor([[int(k) for k in row] for row in rows])
    sampler = Sampler(SCHEDULE, steps=3, difference=1)
    expected = recompute(net, x, ragged, steps=3)
    torch.testing.assert_close(sampler.sample(net, x, plan=ragged), expected)
    diagonal = ad_plan(6, steps=3, difference=1)
    torch.testing.assert_close(sampler.sample(net, x, plan=diagonal), sampler.sample(net, x))


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("difference", [0, 1, 3, 4])
@pytest.mark.parametrize("ready", [1, 3, 7])
def test_a_sample_goes_on_from_its_own_frames_if_each_waits_for_the_last(
    ready: int, difference: int, eta: float
) -> None:
    net, x = tiny(window=3), noise(9)
    sampler = Sampler(SCHEDULE, solver=DDIM(eta), steps=4, difference=difference)
    whole = sampler.sample(net, x, generators=[torch.Generator().manual_seed(0)])
    again = [torch.Generator().manual_seed(0)]
    continued = sampler.sample(net, x, prefix=whole[:, :ready], generators=again)
    # at a smaller difference the frames began beside ones that were still noisy
    assert torch.allclose(continued, whole, rtol=1e-9, atol=1e-9) == (difference == 4)
    assert torch.equal(continued[:, :ready], whole[:, :ready])


@pytest.mark.parametrize(("difference", "window"), [(0, 3), (1, 5), (3, 2), (4, 9)])
def test_nothing_generated_changes_the_prefix_or_an_earlier_frame(
    difference: int, window: int
) -> None:
    net, x, given = tiny(window=window), noise(7), noise(3)
    sampler = Sampler(SCHEDULE, steps=4, difference=difference)
    whole = sampler.sample(net, x, prefix=given)
    for f in range(3, 7):
        changed = x.clone()
        changed[:, f] += 1
        other = sampler.sample(net, changed, prefix=given)
        assert torch.equal(other[:, :f], torch.cat([given, whole[:, 3:f]], dim=1))
        assert not torch.allclose(other[:, f], whole[:, f])


def test_a_video_without_end_begins_like_one_with_an_end() -> None:
    net, x = tiny(), noise(12)
    sampler = Sampler(SCHEDULE, steps=4, difference=1)
    stream = sampler.stream(net, x.unbind(dim=1).__getitem__)
    endless = [next(stream) for _ in range(6)]
    assert [f for f, _ in endless] == list(range(6))
    torch.testing.assert_close(
        torch.stack([z for _, z in endless], dim=1), sampler.sample(net, x)[:, :6]
    )


def test_frames_arrive_while_later_ones_are_still_noise() -> None:
    iterations: list[int] = []
    sampler = Sampler(SCHEDULE, steps=4, difference=2)
    stream = sampler.stream(tiny(), noise(5), progress=lambda _: iterations.append(0))
    arrivals = [len(iterations) for _ in stream]
    assert arrivals == [4, 6, 8, 10, 12]


def test_progress_is_told_the_steps_of_the_frames_in_flight() -> None:
    spans: list[Span] = []
    sampler = Sampler(SCHEDULE, steps=4, difference=2)
    list(sampler.stream(tiny(), noise(3), progress=spans.append))
    plan = ad_plan(3, steps=4, difference=2).tolist()
    assert [span.after for span in spans] == [
        tuple(row[span.start : span.end]) for row, span in zip(plan, spans, strict=True)
    ]


def test_a_run_leaves_nothing_behind() -> None:
    net, caches = tiny(), []
    make = net.make_cache

    def make_cache(*args: Any, **given: Any) -> AttentionContext:  # noqa: ANN401
        cache = make(*args, **given)
        caches.append(weakref.ref(cache))
        return cache

    net.make_cache = make_cache
    gc.disable()
    try:
        for static in (False, True):
            Sampler(SCHEDULE, steps=4, difference=2, static=static).sample(net, noise(5))
            assert caches.pop()() is None
    finally:
        gc.enable()


def test_gradients_are_off_within_the_sampler_alone() -> None:
    net, sampler = tiny(), Sampler(SCHEDULE, steps=4, difference=2)
    one, other = (sampler.stream(net, noise(2)) for _ in range(2))
    for stream in (one, other, one, other):  # in this order a mode held over from `one` would stay
        _, x = next(stream)
        assert torch.is_grad_enabled() and not x.requires_grad
    assert list(one) == list(other) == [] and torch.is_grad_enabled()


def test_noise_of_a_stochastic_solver_depends_on_the_sample_alone() -> None:
    net, x = tiny(), noise(5, batch=3)
    sampler = Sampler(SCHEDULE, solver=DDIM(eta=1.0), steps=4, difference=2)

    def generators(samples: list[int]) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(i) for i in samples]

    together = sampler.sample(net, x, generators=generators([0, 1, 2]))
    alone = sampler.sample(net, x[1:2], generators=generators([1]))
    torch.testing.assert_close(together[1:2], alone)
    other = sampler.sample(net, x[1:2], generators=generators([2]))
    assert (alone - other).abs().amax(dim=(0, 2, 3)).min() > 0.01  # in every frame
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        sampler.sample(net, x, generators=generators([0]))


class Gaussian:
    """The exact denoiser of independent N(mean, std^2) latents, any window, any target."""

    strictly_causal = False
    conditional = False
    window = 3

    def __init__(self, target: Target, mean: float, std: float) -> None:
        self.target, self.mean, self.variance = target, mean, std**2

    def __call__(
        self,
        x_t: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        null: Tensor | None = None,
        cache: Any = None,  # noqa: ANN401
    ) -> Tensor:
        alpha, sigma = SCHEDULE.alpha_sigma(t, dtype=x_t.dtype)
        total = alpha**2 * self.variance + sigma**2
        x_0 = self.mean + alpha * self.variance / total * (x_t - alpha * self.mean)
        return self.target.from_clean(
            x_0, noise=(x_t - alpha * x_0) / sigma, alpha=alpha, sigma=sigma
        )

    def make_cache(self, *sizes: object, **given: object) -> Any:  # noqa: ANN401
        return None


@pytest.mark.parametrize("target", [X0(), Epsilon(), Velocity()])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("difference", [0, 34, 100])
def test_sampler_recovers_gaussian(target: Target, eta: float, difference: int) -> None:
    sampler = Sampler(
        SCHEDULE, target=target, solver=DDIM(eta=eta), steps=100, difference=difference
    )
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    torch.manual_seed(0)
    z = sampler.sample(Gaussian(target, mean=1.5, std=0.5), x)
    assert (z.mean(dim=(0, 2, 3)) - 1.5).abs().max() < 0.03
    assert (z.std(dim=(0, 2, 3)) - 0.5).abs().max() < 0.03


def test_frames_in_flight_that_outrun_the_window_are_refused() -> None:
    gaussian = Gaussian(X0(), mean=0.0, std=1.0)
    sampler = Sampler(SCHEDULE, solver=PublishedDDIM(), steps=10, difference=3)
    iterations: list[int] = []
    with pytest.raises(ValueError, match="outrun the network's window of 3 frames"):
        list(sampler.stream(gaussian, noise(6), progress=lambda _: iterations.append(0)))
    assert not iterations
    assert sampler.sample(gaussian, noise(3)).shape == (1, 3, 2, 3)
    assert Sampler(SCHEDULE, steps=9, difference=3).sample(gaussian, noise(6)).isfinite().all()


def test_a_plan_for_another_length_is_refused() -> None:
    sampler = Sampler(SCHEDULE, steps=4, difference=1)
    with pytest.raises(ValueError, match="plan is for 3 frames, the video has 2"):
        sampler.sample(tiny(), noise(2), plan=ad_plan(3, steps=4, difference=1))


@pytest.mark.parametrize("guidance", [-1.0, float("nan"), float("inf")])
def test_guidance_that_is_no_strength_is_refused(guidance: float) -> None:
    with pytest.raises(ValueError, match=f"finite number of at least 0, got {guidance}"):
        Sampler(SCHEDULE, steps=4, difference=1, guidance=guidance)


def test_guidance_without_a_condition_is_refused() -> None:
    sampler = Sampler(SCHEDULE, steps=4, difference=1, guidance=2.0)
    with pytest.raises(ValueError, match="needs a network with a condition"):
        sampler.sample(tiny(), noise(2))


@pytest.mark.parametrize("sink", [-1, 4])
def test_a_sink_that_fills_the_window_is_refused(sink: int) -> None:
    sampler = Sampler(SCHEDULE, steps=4, difference=1, sink=sink)
    with pytest.raises(ValueError, match=f"sink {sink} must be .* below the network's window of"):
        sampler.sample(tiny(), noise(2))


def test_a_sink_needs_a_network_with_a_cache_of_frames() -> None:
    sampler = Sampler(SCHEDULE, steps=4, difference=1, sink=1)
    with pytest.raises(ValueError, match="sink 1 needs a network that keeps what it knows"):
        sampler.sample(Gaussian(X0(), mean=0.0, std=1.0), noise(2))


def test_a_prefix_longer_than_the_video_is_refused() -> None:
    sampler = Sampler(SCHEDULE, steps=4, difference=1)
    with pytest.raises(ValueError, match="prefix has 3 frames, the video only 2"):
        sampler.sample(tiny(), noise(2), prefix=noise(3))
