import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ardiffusion.diffusion.schedule import NoiseSchedule, StepTimes
from ardiffusion.diffusion.solver import DDIM, DPMSolver2M, PublishedDDIM, Solver
from ardiffusion.diffusion.target import X0, Epsilon, Target, Velocity


def take(
    solver: Solver,
    x: Tensor,
    output: Tensor,
    before: Tensor,
    after: Tensor,
    times: StepTimes,
    target: Target | None = None,
    x0_prev: Tensor | None = None,
    k_prev: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Take one step of frames x (B, F, L, C)."""
    k_prev = torch.full_like(before, -1) if k_prev is None else k_prev
    found = solver.coefficients(before, after, k_prev, times=times, target=target or X0())
    assert noise is not None or not found.noise.any()
    terms = [(found.x, x), (found.output, output), (found.x0_prev, x0_prev)]
    terms.append((found.noise, noise))
    return sum((f[:, None, None] * v for f, v in terms if v is not None), 0 * x)


@pytest.mark.parametrize("steps", [1, 3, 7, 50, 333, 1000])
def test_ddim_takes_exactly_the_asked_steps_evenly_spread(steps: int) -> None:
    times = DDIM().times(NoiseSchedule(), steps=steps)
    gaps = -times.leaving.diff()
    assert times.steps == steps and times.leaving[0] == 999
    assert steps == 1 or gaps.max() - gaps.min() <= 1
    assert times.alphas_cumprod[-1] == 1


@pytest.mark.parametrize("steps", [10, 50])
def test_published_steps_match_the_reference_tables(steps: int, golden: dict[str, Tensor]) -> None:
    times = PublishedDDIM().times(NoiseSchedule(), steps=steps)
    name = f"0.0001_0.02/S{steps}"
    assert torch.equal(times.leaving, golden[f"{name}/ddim_timesteps"].flip(0))
    alphas = golden[f"{name}/ddim_alphas_f64"][:-1].flip(0)
    previous = golden[f"{name}/ddim_alphas_prev_f64"][:-1].flip(0)
    torch.testing.assert_close(times.alphas_cumprod[:-1], alphas, rtol=1e-7, atol=0)
    torch.testing.assert_close(times.alphas_cumprod[1:], previous, rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", ["F16_s5_S50", "F16_s0_S10", "F40_s5_S10", "F16_s50_S50"])
def test_published_timesteps_match_the_reference_tables(
    name: str, golden: dict[str, Tensor]
) -> None:
    frames, _, steps = (int(part[1:]) for part in name.split("_"))
    times = PublishedDDIM().times(NoiseSchedule(), steps=steps)
    after = golden[f"{name}_W16/step_index"].long()
    before = torch.cat([torch.zeros(1, frames, dtype=torch.long), after[:-1]])
    told = times.timesteps(before, after)
    assert torch.equal(told, golden[f"{name}_W16/timestep"].long())
    assert torch.equal(before != after, golden[f"{name}_W16/update_mask"].bool())


def test_published_steps_that_do_not_divide_the_schedule_become_one_more() -> None:
    assert PublishedDDIM().times(NoiseSchedule(), steps=30).steps == 31
    with pytest.raises(ValueError, match="beyond the schedule"):
        PublishedDDIM().times(NoiseSchedule(), steps=999)
    with pytest.raises(ValueError, match="between 1 and the 1000"):
        DDIM().times(NoiseSchedule(), steps=1001)


@pytest.mark.parametrize(
    ("solver", "tolerance"), [(DDIM(), 1e-9), (DPMSolver2M(), 1e-9), (PublishedDDIM(), 1e-5)]
)
def test_a_step_with_an_oracle_follows_add_noise(solver: Solver, tolerance: float) -> None:
    schedule = NoiseSchedule()
    times = solver.times(schedule, steps=10)
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 2, 10, 3, 4, generator=generator, dtype=torch.float64)
    before, after = torch.arange(10), torch.arange(10) + 1

    def noisy(index: Tensor) -> Tensor:
        abar = times.alphas_cumprod[index][:, None, None]
        return abar.sqrt() * x + (1 - abar).sqrt() * noise

    stepped = take(solver, noisy(before), x, before=before, after=after, times=times)
    torch.testing.assert_close(stepped, noisy(after), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("solver", "factor"), [(DDIM(), 1.0), (DPMSolver2M(), 1.0), (PublishedDDIM(), 1.0000212)]
)
def test_idle_frames_keep_or_drift(solver: Solver, factor: float) -> None:
    times = solver.times(NoiseSchedule(), steps=50)
    x = torch.full((1, 2, 1, 1), 2.0, dtype=torch.float64)
    k = torch.tensor([50, 0])
    stepped = take(solver, x, x * 9, before=k, after=k, times=times)
    torch.testing.assert_close(stepped.flatten() / 2, torch.tensor([factor, 1.0]).double())


def test_ancestral_steps_keep_the_variance_of_the_schedule() -> None:
    times = DDIM(eta=1.0).times(NoiseSchedule(), steps=10)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 200, 1, 50, 4, generator=generator, dtype=torch.float64)
    k = torch.tensor([4])
    x_t = (1 - times.alphas_cumprod[4]).sqrt() * z[0]  # of x_0 = 0
    stepped = take(DDIM(eta=1.0), x_t, 0 * x_t, before=k, after=k + 1, times=times, noise=z[1])
    assert abs(stepped.var() / (1 - times.alphas_cumprod[5]) - 1) < 0.02
    with pytest.raises(ValueError, match="eta must lie in 0 to 1"):
        DDIM(eta=2.0)


@pytest.mark.parametrize("target", [X0(), Epsilon(), Velocity()])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_matches_the_equation_of_its_paper(target: Target, eta: float) -> None:
    times = DDIM().times(NoiseSchedule(), steps=10)
    generator = torch.Generator().manual_seed(0)
    x, output, z = torch.randn(3, 2, 10, 3, 4, generator=generator, dtype=torch.float64)
    k = torch.arange(10)
    stepped = take(
        DDIM(eta=eta), x, output, before=k, after=k + 1, times=times, target=target, noise=z
    )
    for f in range(10):
        a, s = times.alphas_cumprod[f], times.alphas_cumprod[f + 1]
        x_0, eps = target.to_x0_eps(
            output[:, f], x_t=x[:, f], alpha=a.sqrt(), sigma=(1 - a).sqrt()
        )
        std = eta * ((1 - s) / (1 - a)).sqrt() * (1 - a / s).sqrt()  # equation 16
        expected = s.sqrt() * x_0 + (1 - s - std**2).clamp(min=0).sqrt() * eps + std * z[:, f]
        torch.testing.assert_close(stepped[:, f], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("target", [X0(), Epsilon(), Velocity()])
@pytest.mark.parametrize("jump", [1, 2])
def test_multistep_matches_algorithm_2_of_its_paper(target: Target, jump: int) -> None:
    solver = DPMSolver2M()
    times = solver.times(NoiseSchedule(), steps=12)
    generator = torch.Generator().manual_seed(0)
    x, output, past = torch.randn(3, 2, 8, 3, 4, generator=generator, dtype=torch.float64)
    k = torch.arange(2, 10)
    told = {"x0_prev": past, "k_prev": k - jump}
    stepped = take(solver, x, output, before=k, after=k + 1, times=times, target=target, **told)
    alpha, sigma = times.alphas_cumprod.sqrt(), (1 - times.alphas_cumprod).sqrt()
    for f in range(8):
        p, i, j = f + 2 - jump, f + 2, f + 3
        lam = [float((alpha[m] / sigma[m]).log()) for m in (p, i, j)]
        h, r = lam[2] - lam[1], (lam[1] - lam[0]) / (lam[2] - lam[1])
        x_0, _ = target.to_x0_eps(output[:, f], x_t=x[:, f], alpha=alpha[i], sigma=sigma[i])
        d = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * past[:, f]
        expected = sigma[j] / sigma[i] * x[:, f] - alpha[j] * math.expm1(-h) * d
        torch.testing.assert_close(stepped[:, f], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 2, 8, 25, 50, 400, 999, 1000])
def test_multistep_places_distinct_steps_evenly_in_lambda(steps: int) -> None:
    schedule = NoiseSchedule()
    times = DPMSolver2M().times(schedule, steps=steps)
    assert times.steps == steps and times.leaving[0] == 999 and times.leaving[-1] >= 0
    assert (times.leaving.diff() < 0).all() and times.alphas_cumprod[-1] == 1
    torch.testing.assert_close(times.alphas_cumprod[:-1], schedule.alphas_cumprod[times.leaving])
    if 1 < steps <= 10:
        lam = torch.special.logit(times.alphas_cumprod[:-1]) / 2
        assert times.leaving[-1] == 0
        assert (lam.diff() / lam.diff().mean() - 1).abs().max() < 0.5


def test_multistep_begins_and_ends_as_ddim() -> None:
    solver = DPMSolver2M()
    times = solver.times(NoiseSchedule(), steps=5)
    before, after, k_prev = torch.tensor([0, 4]), torch.tensor([1, 5]), torch.tensor([-1, 3])
    mine = solver.coefficients(before, after, k_prev, times=times, target=X0())
    ddim = DDIM().coefficients(before, after, k_prev, times=times, target=X0())
    torch.testing.assert_close([mine.x, mine.output], [ddim.x, ddim.output])
    assert not mine.x0_prev.any()


@pytest.mark.parametrize(("solver", "order"), [(DDIM(), 1.0), (DPMSolver2M(), 2.0)])
def test_error_falls_with_the_order_of_the_solver(solver: Solver, order: float) -> None:
    """For Gaussian data of standard deviation s the exact path is x = x_T std_t / std_T."""
    s, schedule = 0.5, NoiseSchedule(beta_start=1e-6, beta_end=2e-3, timesteps=10_000)
    errors = []
    for steps in (20, 40, 80):
        times = DDIM().times(schedule, steps=steps)  # smooth, so that orders show
        alpha, sigma = times.alphas_cumprod.sqrt(), (1 - times.alphas_cumprod).sqrt()
        std = (alpha**2 * s**2 + sigma**2).sqrt()
        x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        past, half = x, steps // 2  # to the middle: the last step to x_0 is first order
        for k in range(half):
            x_0 = alpha[k] * s**2 / std[k] ** 2 * x
            i = torch.tensor([k])
            x, past = (
                take(
                    solver, x, x_0, before=i, after=i + 1, times=times, x0_prev=past, k_prev=i - 1
                ),
                x_0,
            )
        errors.append(abs(float(x) - float(std[half] / std[0])))
    rates = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(abs(rate - order) < 0.3 for rate in rates)
