import pytest
import torch
from torch import Tensor

from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import DDIM, PublishedDDIM, Solver
from ardiffusion.diffusion.target import X0


def no_noise() -> Tensor:
    raise AssertionError("a deterministic solver asked for noise")


@pytest.mark.parametrize("steps", [1, 3, 7, 50, 333, 1000])
def test_ddim_takes_exactly_the_asked_steps_evenly_spread(steps: int) -> None:
    grid = DDIM().grid(NoiseSchedule(), steps=steps)
    gaps = -grid.leaving.diff()
    assert grid.steps == steps and grid.leaving[0] == 999
    assert steps == 1 or gaps.max() - gaps.min() <= 1
    assert grid.alphas_cumprod[-1] == 1


@pytest.mark.parametrize("steps", [10, 50])
def test_published_steps_match_the_reference_tables(steps: int, golden: dict[str, Tensor]) -> None:
    grid = PublishedDDIM().grid(NoiseSchedule(), steps=steps)
    name = f"0.0001_0.02/S{steps}"
    assert torch.equal(grid.leaving, golden[f"{name}/ddim_timesteps"].flip(0))
    alphas = golden[f"{name}/ddim_alphas_f64"][:-1].flip(0)
    previous = golden[f"{name}/ddim_alphas_prev_f64"][:-1].flip(0)
    torch.testing.assert_close(grid.alphas_cumprod[:-1], alphas, rtol=1e-7, atol=0)
    torch.testing.assert_close(grid.alphas_cumprod[1:], previous, rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", ["F16_s5_S50", "F16_s0_S10", "F40_s5_S10", "F16_s50_S50"])
def test_published_timesteps_match_the_reference_tables(
    name: str, golden: dict[str, Tensor]
) -> None:
    frames, _, steps = (int(part[1:]) for part in name.split("_"))
    grid = PublishedDDIM().grid(NoiseSchedule(), steps=steps)
    after = golden[f"{name}_W16/step_index"].long()
    before = torch.cat([torch.zeros(1, frames, dtype=torch.long), after[:-1]])
    told = grid.timesteps(before, after)
    assert torch.equal(told, golden[f"{name}_W16/timestep"].long())
    assert torch.equal(before != after, golden[f"{name}_W16/update_mask"].bool())


def test_published_steps_that_do_not_divide_the_schedule_become_one_more() -> None:
    assert PublishedDDIM().grid(NoiseSchedule(), steps=30).steps == 31
    with pytest.raises(ValueError, match="beyond the schedule"):
        PublishedDDIM().grid(NoiseSchedule(), steps=999)
    with pytest.raises(ValueError, match="between 1 and the 1000"):
        DDIM().grid(NoiseSchedule(), steps=1001)


@pytest.mark.parametrize(("solver", "tolerance"), [(DDIM(), 1e-9), (PublishedDDIM(), 1e-5)])
def test_a_step_with_an_oracle_follows_add_noise(solver: Solver, tolerance: float) -> None:
    schedule = NoiseSchedule()
    grid = solver.grid(schedule, steps=10)
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 2, 10, 3, 4, generator=generator, dtype=torch.float64)
    before, after = torch.arange(10), torch.arange(10) + 1

    def noisy(index: Tensor) -> Tensor:
        abar = grid.alphas_cumprod[index][:, None, None]
        return abar.sqrt() * x + (1 - abar).sqrt() * noise

    stepped = solver.step(
        noisy(before), x, before=before, after=after, grid=grid, target=X0(), noise=no_noise
    )
    torch.testing.assert_close(stepped, noisy(after), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("solver", "factor"), [(DDIM(), 1.0), (PublishedDDIM(), 1.0000212)])
def test_idle_frames_keep_or_drift(solver: Solver, factor: float) -> None:
    grid = solver.grid(NoiseSchedule(), steps=50)
    x = torch.full((1, 2, 1, 1), 2.0, dtype=torch.float64)
    k = torch.tensor([50, 0])
    stepped = solver.step(x, x * 9, before=k, after=k, grid=grid, target=X0(), noise=no_noise)
    torch.testing.assert_close(stepped.flatten() / 2, torch.tensor([factor, 1.0]).double())


def test_ancestral_steps_keep_the_variance_of_the_schedule() -> None:
    grid = DDIM(eta=1.0).grid(NoiseSchedule(), steps=10)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 200, 1, 50, 4, generator=generator, dtype=torch.float64)
    k = torch.tensor([4])
    x_t = (1 - grid.alphas_cumprod[4]).sqrt() * z[0]  # of x_0 = 0
    stepped = DDIM(eta=1.0).step(
        x_t, 0 * x_t, before=k, after=k + 1, grid=grid, target=X0(), noise=lambda: z[1]
    )
    assert abs(stepped.var() / (1 - grid.alphas_cumprod[5]) - 1) < 0.02
    with pytest.raises(ValueError, match="eta must lie in 0 to 1"):
        DDIM(eta=2.0)
