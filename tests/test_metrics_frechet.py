import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ardiffusion.metrics.frechet import frechet_distance, moments


def gaussian(seed: int, features: int, samples: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=generator, dtype=torch.float64)
    x = torch.randn(samples, features, generator=generator, dtype=torch.float64) @ mix + seed
    return x.mean(0), x.T.cov(correction=0).reshape(features, features)


def naive(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    eigenvalues = np.linalg.eigvals(cov1.numpy() @ cov2.numpy()).astype(np.complex128)
    overlap = float(np.real(np.sqrt(eigenvalues)).sum())
    shift = ((mean1 - mean2) ** 2).sum().item()
    return shift + float(np.trace(cov1.numpy()) + np.trace(cov2.numpy())) - 2 * overlap


@pytest.mark.parametrize("features", [1, 2, 7, 40])
def test_matches_eigenvalues_of_the_product(features: int) -> None:
    first, second = gaussian(1, features, 200), gaussian(2, features, 300)
    expected = torch.tensor(naive(*first, *second), dtype=torch.float64)
    assert_close(frechet_distance(*first, *second), expected, rtol=1e-9, atol=1e-9)


def test_diagonal_covariances_have_a_closed_form() -> None:
    mean1, mean2 = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 0.0])
    std1, std2 = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.0, 0.5])
    expected = (mean1 - mean2).square().sum() + (std1 - std2).square().sum()
    distance = frechet_distance(mean1, std1.square().diag(), mean2, std2.square().diag())
    assert_close(distance, expected.double())


@pytest.mark.parametrize("scale", [0.25, 1.0, 9.0])
def test_scaled_covariances_have_a_closed_form(scale: float) -> None:
    mean, covariance = gaussian(8, 6, 50)
    shift = torch.arange(6, dtype=torch.float64)
    # (c C)^½ = c^½ C^½, so what is left of the traces is (1 - c^½)² tr C
    expected = shift.square().sum() + (1 - scale**0.5) ** 2 * covariance.trace()
    distance = frechet_distance(mean, covariance, mean + shift, scale * covariance)
    assert_close(distance, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("samples", [2, 5, 100])
def test_equal_gaussians_are_at_distance_zero_even_if_singular(samples: int) -> None:
    mean, covariance = gaussian(3, 30, samples)
    distance = frechet_distance(mean, covariance, mean, covariance)
    assert distance.item() == pytest.approx(0, abs=1e-9 * covariance.trace().item())


def test_singular_covariances_of_different_ranges_add_up() -> None:
    first, second = torch.zeros(4, 4), torch.zeros(4, 4)
    first[:2, :2], second[2:, 2:] = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.eye(2)
    distance = frechet_distance(torch.zeros(4), first, torch.zeros(4), second)
    assert_close(distance, torch.tensor(6.0, dtype=torch.float64))


def test_two_points_are_apart_by_their_squared_distance() -> None:
    nothing = torch.zeros(3, 3)
    distance = frechet_distance(torch.zeros(3), nothing, torch.tensor([1.0, 2.0, 2.0]), nothing)
    assert_close(distance, torch.tensor(9.0, dtype=torch.float64))


def test_is_symmetric_and_invariant_to_rotation() -> None:
    first, second = gaussian(4, 12, 8), gaussian(5, 12, 60)
    rotation = torch.linalg.eigh(gaussian(6, 12, 40)[1]).eigenvectors
    turned = [(rotation @ m, rotation @ c @ rotation.T) for m, c in (first, second)]
    distance = frechet_distance(*first, *second)
    assert_close(frechet_distance(*second, *first), distance, rtol=1e-7, atol=0)
    assert_close(frechet_distance(*turned[0], *turned[1]), distance, rtol=1e-7, atol=0)


def test_single_precision_statistics_are_computed_in_double() -> None:
    (mean1, cov1), (mean2, cov2) = gaussian(6, 5, 50), gaussian(7, 5, 50)
    distance = frechet_distance(mean1.float(), cov1.float(), mean2.float(), cov2.float())
    assert distance.dtype == torch.float64 and distance.shape == ()
    assert_close(distance, frechet_distance(mean1, cov1, mean2, cov2), rtol=1e-5, atol=0)


def features() -> Tensor:
    return torch.randn(30, 5, generator=torch.Generator().manual_seed(0)) * 3 + 10


@pytest.mark.parametrize("ddof", [0, 1])
def test_moments_match_numpy(ddof: int) -> None:
    x = features()
    mean, covariance = moments(x, ddof=ddof)
    assert mean.dtype == covariance.dtype == torch.float64
    assert_close(mean.numpy(), x.double().numpy().mean(axis=0), rtol=1e-12, atol=0)
    assert_close(covariance.numpy(), np.cov(x.double().numpy().T, ddof=ddof), rtol=1e-9, atol=1e-9)


def test_moments_count_repeated_rows() -> None:
    counts = torch.randint(0, 4, (30,), generator=torch.Generator().manual_seed(1))
    repeated = features().repeat_interleave(counts, dim=0)
    for found, expected in zip(
        moments(features(), ddof=1, counts=counts), moments(repeated, ddof=1), strict=True
    ):
        assert_close(found, expected, rtol=1e-10, atol=1e-10)
