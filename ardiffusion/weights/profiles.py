"""Averages of weights whose length is chosen after training, out of a few that checkpoints hold.

After t steps the average of power g weighs the weights of step i by (i^(g + 1) - (i - 1)^(g + 1))
/ t^(g + 1), nearly p(i) = (g + 1) i^g / t^(g + 1). Its length is the standard deviation of p over
t. Any other profile is the least-squares combination of the profiles that were stored at any step
(EDM2, Karras et al., CVPR 2024, section 3).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ardiffusion.weights.checkpoint import read_checkpoint


class Profile(NamedTuple):
    """How an average weighs the steps before it."""

    steps: int
    power: float

    def product(self, other: "Profile") -> float:
        """Integrate the product of two profiles."""
        first, powers = min(self.steps, other.steps), (self.power + 1) * (other.power + 1)
        shares = [(first / each.steps) ** (each.power + 1) for each in (self, other)]
        return powers / (self.power + other.power + 1) * shares[0] * shares[1] / first


def power(length: float) -> float:
    """Return the power of the average of a length, by bisection."""
    if not 0.001 <= length < 12**-0.5:
        raise ValueError(f"The length of an average is 0.001 to 0.288 of the steps, got {length}.")
    low, high = 0.0, 1e4
    for _ in range(80):
        g = (low + high) / 2
        shorter = (g + 1) ** 0.5 / ((g + 2) * (g + 3) ** 0.5) < length
        low, high = (low, g) if shorter else (g, high)
    return low


def combine(stored: Sequence[Profile], wanted: Profile) -> list[float]:
    """Return the shares of stored averages that come nearest to a wanted one."""
    products = [[one.product(other) for other in (*stored, wanted)] for one in stored]
    table = torch.tensor(products, dtype=torch.float64)
    found = torch.linalg.lstsq(table[:, :-1], table[:, -1:], driver="gelsd").solution
    return found[:, 0].tolist()


def average(path: str | Path, length: float) -> dict[str, Tensor]:
    """Make the average of a length at a checkpoint, of what it and earlier ones beside it hold."""
    end = (read_checkpoint(path).get("ema") or {}).get("updates", 0)
    found: dict[Profile, dict[str, Tensor]] = {}
    for file in sorted(Path(path).parent.glob("*.ckpt")):
        kept = read_checkpoint(file).get("ema") or {}
        if kept.get("updates", end + 1) <= end:
            stored = kept.get("profiles", {}).items()
            found |= {Profile(kept["updates"], power(each)): weights for each, weights in stored}
    if not any(profile.steps == end for profile in found):
        raise ValueError(
            f"{path} holds no averages to make others of: train with EMA's lengths, as [0.05, "
            "0.1], or leave out --ema_length."
        )
    shares = combine(list(found), Profile(end, power(length)))
    made: dict[str, Tensor] = {}
    for share, weights in zip(shares, found.values(), strict=True):
        for name, weight in weights.items():
            made[name] = made.get(name, 0) + share * weight.double()
    return made
