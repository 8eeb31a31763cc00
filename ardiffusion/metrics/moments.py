"""Mean and covariance of features from sums in float64: N, sum x and sum x xᵀ."""

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor


def sums(features: Tensor, counts: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Sum features, each as often as it counts.

    Args:
        features: One row per clip, (N, d).
        counts: How often each row counts, (N,); once by default.

    Returns:
        N, sum x (d,) and sum x xᵀ (d, d), in float64.
    """
    x = features.double()
    counts = torch.ones_like(x[:, 0]) if counts is None else counts.double()
    counted = x * rearrange(counts, "n -> n 1")
    return counts.sum(), reduce(counted, "n d -> d", "sum"), einsum(counted, x, "n i, n j -> i j")


def gaussian(count: Tensor, total: Tensor, outer: Tensor, ddof: int = 0) -> tuple[Tensor, Tensor]:
    """Turn sums into the mean (d,) and the covariance (d, d), divided by N - ddof."""
    mean = total / count
    covariance = outer / count - einsum(mean, mean, "i, j -> i j")
    return mean, covariance * (count / (count - ddof))


def moments(
    features: Tensor, ddof: int = 0, counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return mean (d,) and covariance (d, d) of features (N, d), in float64.

    Args:
        features: One row per clip.
        ddof: The covariance is divided by N - ddof.
        counts: How often each row counts, (N,); once by default.
    """
    return gaussian(*sums(features, counts), ddof=ddof)
