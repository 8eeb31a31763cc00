"""Fréchet distance between two Gaussians (Dowson and Landau, 1982; Heusel et al., 2017).

    d² = |m1 - m2|² + tr C1 + tr C2 - 2 tr (C1^½ C2 C1^½)^½

The last trace is the sum of the square roots of the eigenvalues of a symmetric matrix, so no
general matrix square root is needed and nothing can turn complex. The Gaussians of features come
from sums in float64: N, sum x and sum x xᵀ, which one matrix holds.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor

from ardiffusion.metrics.parallel import one_thread
from ardiffusion.nn.rotary import float64_device


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """Return the squared distance of two Gaussians, a float64 scalar, never negative.

    Means have shape (D,), covariances (D, D); these may be singular.
    """
    mean1, cov1, mean2, cov2 = mean1.double(), cov1.double(), mean2.double(), cov2.double()
    root = square_root(cov1)
    product = root.mT @ cov2 @ root
    eigenvalues = torch.linalg.eigvalsh((product + product.mT) / 2)
    overlap = eigenvalues.clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * overlap
    return distance.clamp(min=0)


def square_root(covariance: Tensor) -> Tensor:
    """A matrix R of full column rank with R Rᵀ = C.

    Directions without variance are left out: there the eigenvalues are rounding noise of size
    1e-16, and the square root would raise it to 1e-8.
    """
    values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
    noise = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    kept = values > noise
    return vectors[:, kept] * values[kept].sqrt()


def feature_sums(features: Tensor, counts: Tensor | None = None) -> Tensor:
    """Sum y yᵀ, y = [1, x], over features (N, d), which may count repeatedly: (1 + d, 1 + d)."""
    x = features.to(float64_device(features.device)).double()
    y = F.pad(x, (1, 0), value=1.0)  # (N, 1 + d)
    counted = y if counts is None else y * rearrange(counts, "n -> n 1")
    return einsum(counted, y, "n i, n j -> i j")


def gaussian_from_sums(sums: Tensor, ddof: int = 0) -> tuple[Tensor, Tensor]:
    """Turn sums into the mean (d,) and the covariance (d, d), divided by N - ddof."""
    count, mean = sums[0, 0], sums[0, 1:] / sums[0, 0]
    covariance = sums[1:, 1:] / count - einsum(mean, mean, "i, j -> i j")
    return mean, covariance * (count / (count - ddof))


def moments(
    features: Tensor, ddof: int = 0, counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return mean (d,) and covariance (d, d) of features (N, d), each as often as it counts."""
    return gaussian_from_sums(feature_sums(features, counts), ddof=ddof)


def feature_distance(
    real: Tensor, fake: Tensor, ddof: int = 0, counts: Sequence[Tensor | None] = (None, None)
) -> float:
    """Return the Fréchet distance of features (N, d) and (M, d), which may count repeatedly."""
    with one_thread():
        mean1, cov1 = moments(real, ddof=ddof, counts=counts[0])
        mean2, cov2 = moments(fake, ddof=ddof, counts=counts[1])
        return frechet_distance(mean1=mean1, cov1=cov1, mean2=mean2, cov2=cov2).item()
