import itertools
import math
from collections import Counter

import pytest
import torch

from ardiffusion.diffusion.ad import ad_plan
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import DDIM
from ardiffusion.diffusion.timesteps import (
    Dice,
    FoPP,
    Independent,
    Mixture,
    NonDecreasing,
    PlanRows,
    StepRows,
    StratifiedFoPP,
    Synchronous,
    Timesteps,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def enumerated(frames: int, timesteps: int) -> dict[tuple[int, ...], float]:
    """List every non-decreasing sequence with its probability under FoPP."""
    grid = itertools.product(range(timesteps), repeat=frames)
    sequences = [t for t in grid if list(t) == sorted(t)]
    probability = dict.fromkeys(sequences, 0.0)
    for f, t_f in itertools.product(range(frames), range(timesteps)):
        completions = [t for t in sequences if t[f] == t_f]
        for t in completions:
            probability[t] += 1 / (frames * timesteps * len(completions))
    return probability


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
@pytest.mark.parametrize("timesteps", [1, 2, 3, 4])
def test_fopp_matches_enumeration(frames: int, timesteps: int) -> None:
    probability = enumerated(frames, timesteps)
    count = 40_000
    drawn = FoPP(timesteps)(count, frames, generator=seeded())
    seen = dict.fromkeys(probability, 0)
    for t in map(tuple, drawn.tolist()):
        seen[t] += 1  # a sequence that decreases would be a KeyError
    chi2 = sum((seen[t] - count * p) ** 2 / (count * p) for t, p in probability.items())
    freedom = len(probability) - 1
    # five standard deviations of a chi-square variable
    assert chi2 <= freedom + 5 * (2 * freedom) ** 0.5 + 1e-9


def test_stratified_pivots_are_uniform_alone_and_even_together() -> None:
    dice, sampler = Dice(seeded(), "cpu"), StratifiedFoPP()
    first = torch.stack([sampler.pivots(16, dice)[3] for _ in range(4000)])
    for pivots in first.unbind(dim=1):
        counts = torch.histc(pivots.float(), bins=10, min=0, max=1)
        assert (counts - 400).abs().max() < 100  # five standard deviations
    for pivots in sampler.pivots(16, dice).unbind(dim=1):
        assert pivots.sort().values.diff().max() < 3 / 16


def marginals(frames: int, timesteps: int) -> torch.Tensor:
    """Exact P(t_f = t) of FoPP from binomials, shape (F, T), in float64."""
    total = torch.zeros(frames, timesteps, dtype=torch.float64)

    def log_count(values: torch.Tensor, draws: int) -> torch.Tensor:
        """Log number of sorted multisets of `draws` out of `values` values."""
        n = values.double()
        return (n + draws).lgamma() - n.lgamma() - torch.tensor(draws + 1.0).double().lgamma()

    t = torch.arange(timesteps)
    for f, g in itertools.product(range(frames), repeat=2):
        if f == g:
            total[g] += 1 / timesteps
            continue
        low, high = (t[None, :], t[:, None]) if g < f else (t[:, None], t[None, :])
        span = (high - low).clamp(min=0) + 1  # values between the two frames
        inside, outside = abs(f - g) - 1, g if g < f else frames - 1 - g
        edge = low + 1 if g < f else timesteps - high
        joint = log_count(span, inside) + log_count(edge, outside)
        joint = joint.masked_fill(high < low, -torch.inf)  # (t_f, t_g)
        total[g] += joint.softmax(dim=1).mean(dim=0)
    return total / frames


@pytest.mark.parametrize(("frames", "timesteps"), [(5, 7), (16, 1000)])
def test_fopp_marginals_match_the_reference(
    frames: int, timesteps: int, golden: dict[str, torch.Tensor]
) -> None:
    reference = golden[f"F{frames}_T{timesteps}/marginal_mid"]
    if timesteps < 100:  # the exact ones take seconds at T = 1000
        torch.testing.assert_close(marginals(frames, timesteps), reference, rtol=1e-9, atol=1e-12)
    count = 50_000
    drawn = FoPP(timesteps)(count, frames, generator=seeded(1))
    for f in range(frames):
        seen = torch.bincount(drawn[:, f], minlength=timesteps).cumsum(0) / count
        # Kolmogorov-Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand
        assert (seen - reference[f].cumsum(0)).abs().max() < 2.3 / count**0.5


@pytest.mark.parametrize("frames", [1, 2, 128, 1024])
@pytest.mark.parametrize("sampler", [FoPP(1000), NonDecreasing(1000)])
def test_sequences_stay_ordered_at_any_length(sampler: Timesteps, frames: int) -> None:
    t = sampler(64, frames, generator=seeded())
    assert t.shape == (64, frames) and t.dtype == torch.int64
    assert t.min() >= 0 and t.max() < 1000
    assert (t.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
@pytest.mark.parametrize("timesteps", [1, 2, 3, 4])
def test_all_non_decreasing_sequences_are_equally_likely(frames: int, timesteps: int) -> None:
    grid = itertools.product(range(timesteps), repeat=frames)
    seen = {t: 0 for t in grid if list(t) == sorted(t)}
    assert len(seen) == math.comb(timesteps + frames - 1, frames)
    count = 40_000
    for t in map(tuple, NonDecreasing(timesteps)(count, frames, generator=seeded()).tolist()):
        seen[t] += 1  # a sequence that decreases would be a KeyError
    expected = count / len(seen)
    chi2 = sum((n - expected) ** 2 / expected for n in seen.values())
    freedom = len(seen) - 1
    # five standard deviations of a chi-square variable
    assert chi2 <= freedom + 5 * (2 * freedom) ** 0.5 + 1e-9


@pytest.mark.parametrize(("frames", "timesteps"), [(5, 7), (16, 1000)])
def test_marginals_of_non_decreasing_sequences_are_binomials(frames: int, timesteps: int) -> None:
    count = 50_000
    drawn = NonDecreasing(timesteps)(count, frames, generator=seeded(1))
    total = math.comb(timesteps + frames - 1, frames)
    for f in range(frames):
        exact = [
            math.comb(t + f, f) * math.comb(timesteps - 1 - t + frames - 1 - f, frames - 1 - f)
            for t in range(timesteps)
        ]
        assert sum(exact) == total
        reference = torch.tensor([n / total for n in exact]).cumsum(0)
        seen = torch.bincount(drawn[:, f], minlength=timesteps).cumsum(0) / count
        # Kolmogorov-Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand
        assert (seen - reference).abs().max() < 2.3 / count**0.5


def test_independent_and_synchronous_do_what_they_say() -> None:
    t = Independent(1000)(2000, 4, generator=seeded())
    assert abs(torch.corrcoef(t.T.double())[0, 1]) < 0.1
    t = Synchronous(1000)(2000, 4, generator=seeded())
    assert (t == t[:, :1]).all() and t[:, 0].unique().numel() > 500


@pytest.mark.parametrize("difference", [0, 1, 5, 50])
def test_plan_rows_are_clean_frames_then_a_ramp_then_noise(difference: int) -> None:
    t = PlanRows(1000, steps=50, differences=[difference])(500, 16, generator=seeded())
    assert (t.diff(dim=1) >= 0).all() and t.min() >= 0 and t.max() == 999
    flying = (t[:, :-1] > 0) & (t[:, 1:] < 999)
    ramp = t.diff(dim=1)[flying]
    assert ((ramp - 20 * difference).abs() <= 1).all()


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
def test_step_rows_are_those_of_sampling_each_as_often(steps: int, frames: int) -> None:
    count, rows = 6000, dict[tuple[int, ...], float]()
    times = DDIM().times(NoiseSchedule(), steps)
    for s in range(1, steps + 1):
        plan = ad_plan(frames, steps=steps, difference=s)
        for before in [[0] * frames, *plan[:-1].tolist()]:
            row = tuple(0 if k == steps else int(times.leaving[k]) for k in before)
            rows[row] = rows.get(row, 0) + count / steps / len(plan)
    drawn = Counter(map(tuple, StepRows(1000, steps=steps)(count, frames, seeded()).tolist()))
    assert drawn.keys() == rows.keys()
    assert all(abs(drawn[row] - wanted) < 5 * wanted**0.5 for row, wanted in rows.items())


def test_mixture_draws_each_clip_from_one_sampler_by_weight() -> None:
    samplers: list[Timesteps] = [Synchronous(1000), PlanRows(1000, differences=[50])]
    t = Mixture(samplers=samplers, weights=[3, 1])(4000, 8, generator=seeded())
    synchronous = (t == t[:, :1]).all(dim=1).double().mean()
    assert abs(synchronous - 0.75) < 0.03


def test_mixture_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="one positive weight per sampler"):
        Mixture(samplers=[FoPP()], weights=[0.5, 0.5])
    with pytest.raises(ValueError, match=r"equally many timesteps, got \[1000, 50\]"):
        Mixture(samplers=[FoPP(), FoPP(50)], weights=[0.5, 0.5])
