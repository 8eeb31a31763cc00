import math
from itertools import product

import pytest
import torch

from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.target import Velocity
from ardiffusion.diffusion.weighting import (
    InverseVariance,
    LearnedVariance,
    MinSNR,
    Ramp,
    Uniform,
    Weighting,
)

LEVELS = NoiseSchedule().alpha_sigma(torch.arange(1000)[None], dtype=torch.float64)


@pytest.mark.parametrize(
    "weighting", [Uniform(), Ramp(), MinSNR(), InverseVariance(), LearnedVariance()]
)
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


def test_learned_variances_and_their_gradients_match_a_naive_loop() -> None:
    weighting = LearnedVariance(cosines=3).double()
    torch.nn.init.normal_(
        weighting.coefficients, std=0.1, generator=torch.Generator().manual_seed(0)
    )
    errors = torch.rand(2, 5, generator=torch.Generator().manual_seed(1)).double()
    alpha, sigma = (level[0, ::100, 0, 0].reshape(2, 5) for level in LEVELS)
    found = weighting.weigh(errors, alpha, sigma)
    found.sum().backward()
    gradient = [0.0, 0.0, 0.0]
    for b, f in product(range(2), range(5)):
        distance = math.log(sigma[b, f] / alpha[b, f])
        cosines = [math.cos(k * math.pi * (distance + 6) / 12) for k in range(3)]
        c = [16 * float(own) for own in weighting.coefficients]
        u = c[0] * cosines[0] + c[1] * cosines[1] + c[2] * cosines[2]
        error, scale = float(errors[b, f]), math.exp(c[0])
        torch.testing.assert_close(found[b, f].item(), scale * (error / math.exp(u) + u))
        for k in range(3):
            gradient[k] += scale * (1 - error / math.exp(u)) * cosines[k] / 16
    assert weighting.coefficients.grad is not None
    torch.testing.assert_close(weighting.coefficients.grad.tolist(), gradient)


def test_learned_variances_become_the_mean_errors_of_their_levels() -> None:
    alpha, sigma = (level[0, :, 0, 0] for level in LEVELS)
    mean = 0.01 + 0.5 * sigma.square()  # as errors of x_0 grow with the noise
    weighting = LearnedVariance().double()
    optimizer = torch.optim.Adam(weighting.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        spread = torch.rand(1000, generator=generator).double() + 0.5
        loss = weighting.weigh(mean * spread, alpha, sigma).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    off = (mean / weighting.log_variance(alpha, sigma).exp() - 1).abs()
    assert off.mean() < 0.05 and off.max() < 0.25


def test_levels_without_noise_and_without_signal_have_variances() -> None:
    ends = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    weighting = LearnedVariance(cosines=2)
    torch.nn.init.ones_(weighting.coefficients)
    torch.testing.assert_close(weighting.log_variance(*ends), torch.tensor([32.0, 0.0]))


@pytest.mark.parametrize(
    "kind, wrong",
    [
        *[(Ramp, {"clean": -1.0}), (Ramp, {"noise": math.nan}), (Ramp, {"clean": math.inf})],
        (MinSNR, {"gamma": 0.0}),
        (LearnedVariance, {"cosines": 0}),
    ],
)
def test_weights_that_make_no_sense_are_refused(kind: type, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="0"):
        kind(**wrong)
