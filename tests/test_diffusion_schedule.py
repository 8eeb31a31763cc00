import pytest
import torch

from ardiffusion.diffusion.schedule import NoiseSchedule


def test_schedule_equals_a_plain_loop() -> None:
    schedule = NoiseSchedule(beta_start=1e-3, beta_end=0.3, timesteps=50)
    abar = 1.0
    for t in range(50):
        root = 1e-3**0.5 + t / 49 * (0.3**0.5 - 1e-3**0.5)
        abar *= 1 - root**2
        assert abs(schedule.alphas_cumprod[t].item() - abar) < 1e-14


@pytest.mark.parametrize("beta_end", [0.002, 0.02])
@pytest.mark.filterwarnings("ignore:The noise schedule ends")
def test_schedule_matches_the_reference(beta_end: float, golden: dict[str, torch.Tensor]) -> None:
    schedule = NoiseSchedule(beta_end=beta_end)
    reference = golden[f"0.0001_{beta_end}/alphas_cumprod_f64"]
    torch.testing.assert_close(schedule.alphas_cumprod, reference, rtol=1e-13, atol=0)


def test_schedule_recovers_t_from_its_signal_to_noise_ratio() -> None:
    schedule = NoiseSchedule()
    t = torch.arange(1000)[None]
    alpha, sigma = schedule.alpha_sigma(t, dtype=torch.float64)
    snr = (alpha / sigma).flatten().square()
    assert (snr.diff() < 0).all()
    distance = (snr / (1 + snr))[:, None] - schedule.alphas_cumprod[None, :]
    assert torch.equal(distance.abs().argmin(dim=1), t[0])


def test_noise_is_added_per_frame_with_unit_variance() -> None:
    schedule = NoiseSchedule()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, 32, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    t = torch.tensor([0, 500, 999]).expand(64, 3)
    x_t = schedule.add_noise(x, noise=noise, t=t)
    for f, abar in enumerate(schedule.alphas_cumprod[[0, 500, 999]]):
        expected = abar.sqrt() * x[:, f] + (1 - abar).sqrt() * noise[:, f]
        torch.testing.assert_close(x_t[:, f], expected, rtol=1e-12, atol=1e-12)
    assert ((x_t.std(dim=(0, 2, 3)) - 1).abs() < 0.03).all()


def test_schedule_without_a_noisy_end_warns_and_nonsense_is_refused() -> None:
    with pytest.warns(UserWarning, match=r"ends at abar = 0\.43"):
        NoiseSchedule(beta_end=0.002)
    with pytest.raises(ValueError, match="beta_start <= beta_end"):
        NoiseSchedule(beta_start=0.5, beta_end=0.1)
    with pytest.raises(ValueError, match="at least one timestep"):
        NoiseSchedule(timesteps=0)
