"""What a network makes of diffusion timestep and class label (Peebles and Xie, DiT, 2023).

A run meets few pairs of them, so that their modulations can be tabulated.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TimestepEmbedding(nn.Module):
    """Sinusoids phi(t) = [cos(t u_i) | sin(t u_i)], u_i = 10000^(-2 i / 256), and an MLP."""

    frequencies = 256

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(self.frequencies, width)
        self.out = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """Embed timesteps (B, F) as vectors (B, F, D)."""
        half = self.frequencies // 2
        exponent = torch.arange(half, dtype=torch.float32, device=t.device) / half
        angles = t[..., None] * torch.exp(-math.log(1e4) * exponent)  # (B, F, half)
        phases = torch.cat([angles.cos(), angles.sin()], dim=-1)  # (B, F, frequencies)
        return self.out(F.silu(self.hidden(phases.to(self.hidden.weight.dtype))))


class LabelEmbedding(nn.Module):
    """One vector per class and one of its own for "no class"."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes + 1, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, label: Tensor, null: Tensor | None = None) -> Tensor:
        """Embed labels (B,) as vectors (B, D): negative ones, and where `null`, as "no class"."""
        none = label < 0 if null is None else null | (label < 0)
        return self.table(torch.where(none, self.classes, label))


class ConditionTable:
    """Modulations of all blocks for the timesteps and labels of a run, computed once.

    The run asks for `timesteps` (K,), which rise; its labels and `null` (B,) are those of a
    network's calls. The network's `modulations` takes timesteps (U, K) and labels (U,) or None,
    and returns one tensor (U, K, ...) per block.
    """

    def __init__(
        self,
        modulations: Callable[[Tensor, Tensor | None], Sequence[Tensor]],
        timesteps: Tensor,
        label: Tensor | None = None,
        null: Tensor | None = None,
    ) -> None:
        labels, self.rows = None, timesteps.new_zeros(1)  # all samples share the one row
        if label is not None:
            given = label if null is None else torch.where(null, -1, label)
            labels, self.rows = given.unique(return_inverse=True)  # (U,), (B,)
        parts = modulations(timesteps.expand(1 if labels is None else len(labels), -1), labels)
        self.sizes = [part.shape[-1] for part in parts]
        self.table = torch.cat(list(parts), dim=-1)  # (U, K, sum of sizes)
        self.place = timesteps.new_zeros(int(timesteps[-1]) + 1)  # of a timestep in the table
        self.place[timesteps] = torch.arange(len(timesteps), device=timesteps.device)

    def __call__(self, t: Tensor) -> list[Tensor]:
        """Look up timesteps (B, F); return one tensor (B, F, ...) per block."""
        found = self.table[self.rows[:, None], self.place[t]]  # (B, F, sum of sizes)
        return list(found.split(self.sizes, dim=-1))
