"""Kernel distance between sets of features: unbiased polynomial MMD² (Bińkowski et al., 2018).

    k(x, y) = (x · y / d + 1)³,   MMD² = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)

with x ≠ x' and y ≠ y'. It assumes no Gaussian and has no bias with few clips, so that distances of
different numbers of clips compare; it may come out below 0. As KID, but for videos.
"""

from collections.abc import Sequence

import torch
from einops import einsum
from torch import Tensor

from ardiffusion.nn.rotary import float64_device


class KernelDistance:
    """The distance of features (N, d) and (M, d), however often each counts.

    Kernels are computed once, in float64, for all that a bootstrap draws.
    """

    def __init__(self, real: Tensor, fake: Tensor) -> None:
        x, y = (side.to(float64_device(side.device)).double() for side in (real, fake))
        self.within, self.across = (kernel(x, x), kernel(y, y)), kernel(x, y)

    def __call__(self, counts: Sequence[Tensor | None] = (None, None)) -> float:
        """Return MMD² of features that count as often as `counts`, (N,) and (M,), say."""
        ones = (torch.ones_like(each[0]) for each in self.within)
        a, b = (
            one if given is None else given.to(one)
            for one, given in zip(ones, counts, strict=True)
        )
        across = einsum(a / a.sum(), self.across, b / b.sum(), "n, n m, m ->")
        means = [mean_of_pairs(k, c) for k, c in zip(self.within, (a, b), strict=True)]
        return float(sum(means) - 2 * across)


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Return MMD² of features (N, d) and (M, d)."""
    return KernelDistance(real, fake)()


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """Return k for all pairs of features (N, d) and (M, d), shape (N, M)."""
    return (einsum(x, y, "n d, m d -> n m") / x.shape[1] + 1) ** 3


def mean_of_pairs(values: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of kernels (N, N) over pairs of different draws."""
    alike = einsum(counts, values.diagonal(), "n, n ->")  # a draw with itself
    total = counts.sum() * (counts.sum() - 1)
    return (einsum(counts, values, counts, "n, n m, m ->") - alike) / total
