"""Fréchet distance between two Gaussians (Dowson and Landau, 1982; Heusel et al., 2017).

    d² = |m1 - m2|² + tr C1 + tr C2 - 2 tr (C1^½ C2 C1^½)^½

The last trace is the sum of the square roots of the eigenvalues of a symmetric matrix, so no
general matrix square root is needed and nothing can turn complex.
"""

import torch
from torch import Tensor


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """Squared Fréchet distance, computed in float64; covariances may be singular.

    Args:
        mean1: Mean of the first Gaussian, (D,).
        cov1: Covariance of the first Gaussian, (D, D).
        mean2: Mean of the second Gaussian, (D,).
        cov2: Covariance of the second Gaussian, (D, D).

    Returns:
        The distance, a float64 scalar, never negative.
    """
    mean1, cov1, mean2, cov2 = mean1.double(), cov1.double(), mean2.double(), cov2.double()
    root = _square_root(cov1)
    product = root.mT @ cov2 @ root
    eigenvalues = torch.linalg.eigvalsh((product + product.mT) / 2)
    overlap = eigenvalues.clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * overlap
    return distance.clamp(min=0)


def _square_root(covariance: Tensor) -> Tensor:
    """A matrix R of full column rank with R Rᵀ = C.

    Directions without variance are left out: there the eigenvalues are rounding noise of size
    1e-16, and the square root would raise it to 1e-8.
    """
    values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
    noise = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    kept = values > noise
    return vectors[:, kept] * values[kept].sqrt()
