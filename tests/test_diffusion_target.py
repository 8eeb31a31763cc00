import pytest
import torch

from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.target import X0, Epsilon, Target, Velocity


@pytest.mark.parametrize("target", [X0(), Epsilon(), Velocity()])
def test_a_perfect_prediction_splits_into_the_clean_latents_and_the_noise(target: Target) -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 2, 3, 4, 5, generator=generator, dtype=torch.float64)
    schedule = NoiseSchedule()
    t = torch.tensor([[0, 100, 999], [1, 500, 998]])
    alpha, sigma = schedule.alpha_sigma(t, dtype=torch.float64)
    output = target.from_clean(x, noise=noise, alpha=alpha, sigma=sigma)
    x_t = schedule.add_noise(x, noise=noise, t=t)
    clean, eps = target.to_x0_eps(output, x_t=x_t, alpha=alpha, sigma=sigma)
    torch.testing.assert_close(clean, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(eps, noise, rtol=1e-9, atol=1e-9)


def test_velocity_is_the_derivative_along_the_circle() -> None:
    x, noise = torch.tensor(0.3), torch.tensor(-1.2)
    angle = torch.tensor(0.7, requires_grad=True)
    x_t = angle.cos() * x + angle.sin() * noise
    (slope,) = torch.autograd.grad(x_t, angle)
    v = Velocity().from_clean(x, noise=noise, alpha=angle.cos(), sigma=angle.sin())
    torch.testing.assert_close(v, slope)
