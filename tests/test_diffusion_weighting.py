import math

import pytest
import torch

from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.target import Velocity
from ardiffusion.diffusion.weighting import InverseVariance, MinSNR, Ramp, Uniform, Weighting

LEVELS = NoiseSchedule().alpha_sigma(torch.arange(1000)[None], dtype=torch.float64)


@pytest.mark.parametrize("weighting", [Uniform(), Ramp(), MinSNR(), InverseVariance()])
def test_weights_are_finite_and_never_negative(weighting: Weighting) -> None:
    weights = weighting(*LEVELS)
    assert weights.shape == LEVELS[0].shape
    assert weights.isfinite().all() and (weights >= 0).all()


def test_a_ramp_is_linear_in_abar() -> None:
    abar = LEVELS[0].square()
    torch.testing.assert_close(Ramp(clean=0.1, noise=1.0)(*LEVELS), 0.1 + 0.9 * (1 - abar))


def test_weights_turn_errors_of_the_clean_latents_into_those_of_noise_and_velocity() -> None:
    alpha, sigma = LEVELS[0][:, 300:], LEVELS[1][:, 300:]  # where no bound is reached
    x, wrong = torch.tensor(0.3), torch.tensor(0.5)
    x_t = alpha * x + sigma * 0.7
    eps = ((x_t - alpha * wrong) / sigma - 0.7).square()
    torch.testing.assert_close(MinSNR(gamma=50)(alpha, sigma) * (wrong - x).square(), eps)
    target = Velocity().from_clean(x, noise=torch.tensor(0.7), alpha=alpha, sigma=sigma)
    guess = alpha * (x_t - alpha * wrong) / sigma - sigma * wrong
    weighted = InverseVariance(most=50)(alpha, sigma) * (wrong - x).square()
    torch.testing.assert_close(weighted, (guess - target).square())


def test_weights_stop_at_their_bound() -> None:
    assert MinSNR(gamma=5)(*LEVELS).max() == 5
    assert InverseVariance(most=20)(*LEVELS).max() == 20


@pytest.mark.parametrize(
    "kind, wrong",
    [
        *[(Ramp, {"clean": -1.0}), (Ramp, {"noise": math.nan}), (Ramp, {"clean": math.inf})],
        (MinSNR, {"gamma": 0.0}),
    ],
)
def test_weights_that_make_no_sense_are_refused(kind: type, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="0"):
        kind(**wrong)
