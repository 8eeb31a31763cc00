"""Losses of an optimiser step by timestep and by frame, as sums that add up over everything.

Batches, steps and devices are put together by adding their sums; means are taken in the end.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor


class Means(NamedTuple):
    """Mean losses; None stands for what is not finite, or for a bin without frames."""

    loss: float | None
    bins: list[float | None]
    frames: list[float | None]


def batch_sums(outputs: Mapping[str, Any], bins: int, timesteps: int, gathered: int) -> Tensor:
    """Sum the losses of a batch on its device, without waiting for it.

    Args:
        outputs: What the training step returned: `losses` and `t`, shape (B, F), or `loss` alone.
        bins: Number of equal parts of the timesteps.
        timesteps: Number of timesteps.
        gathered: Batches per optimiser step, which Lightning divides `loss` by.

    Returns:
        One row: loss, batches, clips, then per bin its sum, per bin its count, per frame its sum.
    """
    if "losses" not in outputs:
        loss = outputs["loss"].detach().float() * gathered
        return torch.stack([loss, torch.ones_like(loss), torch.zeros_like(loss)])
    losses = outputs["losses"].float()  # (B, F)
    t = outputs["t"]  # (B, F)
    part = torch.arange(bins, device=t.device)
    hit = rearrange(t * bins // timesteps, "b f -> b f 1") == part  # (B, F, bins)
    # A product would spread one that is not finite to every bin.
    parted = torch.where(hit, rearrange(losses, "b f -> b f 1"), 0.0)  # (B, F, bins)
    numbers = torch.stack(
        [losses.mean(), losses.new_ones(()), losses.new_full((), float(len(losses)))]
    )
    by_bin = [reduce(x.float(), "b f bins -> bins", "sum") for x in (parted, hit)]
    return torch.cat([numbers, *by_bin, reduce(losses, "b f -> f", "sum")])


def means(sums: Sequence[float], bins: int) -> Means:
    """Make means of a row of sums."""
    loss, batches, clips, *rest = sums
    counts, frames = rest[bins : 2 * bins], rest[2 * bins :]
    by_bin = [ratio(total, count) for total, count in zip(rest, counts, strict=False)]
    return Means(ratio(loss, batches), by_bin, [ratio(total, clips) for total in frames])


def ratio(total: float, count: float) -> float | None:
    """Divide, or return None for what is no number."""
    return finite(total / count) if count else None


def finite(value: float) -> float | None:
    """Return a number that JSON knows; None for infinity and NaN."""
    return value if math.isfinite(value) else None
