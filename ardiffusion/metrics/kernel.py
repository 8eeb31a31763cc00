"""Kernel distance between sets of features: unbiased polynomial MMD² (Bińkowski et al., 2018).

    k(x, y) = (x · y / d + 1)³,   MMD² = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)

with x ≠ x' and y ≠ y'. It assumes no Gaussian and has no bias with few clips, so that distances of
different numbers of clips compare; it may come out below 0. As KID, but for videos.
"""

from collections.abc import Sequence

import torch
from einops import einsum
from torch import Tensor

from ardiffusion.metrics.parallel import in_threads
from ardiffusion.nn.rotary import float64_device

ROWS = 256  # of a matrix of kernels, which are computed together


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Return MMD² of features (N, d) and (M, d)."""
    (value,) = kernel_distances(real, fake, [[torch.ones(len(x)) for x in (real, fake)]])
    return value


def kernel_distances(
    real: Tensor, fake: Tensor, counts: Sequence[Sequence[Tensor]]
) -> list[float]:
    """Return MMD² for each draw, which says how often features count, (N,) and (M,).

    Kernels are computed in float64, in blocks that are not kept: all of 20 000 clips a side would
    take 10 GB.
    """
    x, y = (side.to(float64_device(side.device)).double() for side in (real, fake))
    a, b = (torch.stack([draw[side] for draw in counts]).to(x) for side in (0, 1))
    across = sum_of_pairs(x, a, y, b) / (a.sum(dim=1) * b.sum(dim=1))
    return (mean_within(x, a) + mean_within(y, b) - 2 * across).tolist()


def sum_of_pairs(x: Tensor, a: Tensor, y: Tensor, b: Tensor) -> Tensor:
    """Sum k over all pairs of features, (N, d) and (M, d), as often as both count, (K,).

    Counts, (K, N) and (K, M), are those of K draws.
    """

    def part(start: int) -> Tensor:
        rows = slice(start, start + ROWS)
        kernels = kernel(einsum(x[rows], y, "n d, m d -> n m"), width=x.shape[1])
        return einsum(a[:, rows], kernels @ b.mT, "k n, n k -> k")

    return torch.stack(in_threads(part, range(0, len(x), ROWS))).sum(dim=0)


def mean_within(x: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of k over pairs of different features drawn, (K,)."""
    alike = counts @ kernel(einsum(x, x, "n d, n d -> n"), width=x.shape[1])  # each with itself
    total = counts.sum(dim=1)
    return (sum_of_pairs(x, counts, x, counts) - alike) / (total * (total - 1))


def kernel(products: Tensor, width: int) -> Tensor:
    """Return k of features of a width, given their products, in the place of these."""
    return products.div_(width).add_(1).pow_(3)
