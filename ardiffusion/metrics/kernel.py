"""Kernel distance between sets of features: unbiased polynomial MMD² (Bińkowski et al., 2018).

    k(x, y) = (x · y / d + 1)³,   MMD² = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)

with x ≠ x' and y ≠ y'. It assumes no Gaussian and has no bias with few clips, so distances of
different numbers of clips compare; it may come out below 0. As KID, but for videos.
"""

from collections.abc import Sequence

import torch
from einops import einsum
from torch import Tensor


def kernel_distance(
    real: Tensor, fake: Tensor, counts: Sequence[Tensor | None] = (None, None)
) -> float:
    """Return MMD² of features (N, d) and (M, d) in float64, which may count repeatedly."""
    x, y = real.double(), fake.double()
    a, b = (
        torch.ones(len(z), dtype=torch.float64, device=z.device) if n is None else n.double()
        for z, n in zip((x, y), counts, strict=True)
    )
    across = einsum(a / a.sum(), kernel(x, y), b / b.sum(), "n, n m, m ->")
    return float(mean_of_pairs(x, a) + mean_of_pairs(y, b) - 2 * across)


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """Return k for all pairs of features (N, d) and (M, d), shape (N, M)."""
    return (einsum(x, y, "n d, m d -> n m") / x.shape[1] + 1) ** 3


def mean_of_pairs(x: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of k over pairs of different draws of features (N, d)."""
    values, total = kernel(x, x), counts.sum()
    alike = einsum(counts, values.diagonal(), "n, n ->")  # a draw with itself
    return (einsum(counts, values, counts, "n, n m, m ->") - alike) / (total * (total - 1))
