"""What a network makes of timestep and class, tabulated for the few pairs that a run meets."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class ConditionTable:
    """Modulations of all blocks for the timesteps and labels of a run, computed once.

    Args:
        modulations: The network's function of timesteps (U, K) and labels (U,) or None; returns
            one tensor (U, K, ...) per block.
        timesteps: The timesteps that the run will ask for, rising, shape (K,).
        label: Class indices of the run's batch, shape (B,); None or negative for "no class".
        null: Rows of the batch without their class, bool, shape (B,).
    """

    def __init__(
        self,
        modulations: Callable[[Tensor, Tensor | None], Sequence[Tensor]],
        timesteps: Tensor,
        label: Tensor | None,
        null: Tensor | None,
    ) -> None:
        labels, self.rows = None, timesteps.new_zeros(1)  # all samples share the one row
        if label is not None:
            given = label if null is None else torch.where(null, -1, label)
            labels, self.rows = given.unique(return_inverse=True)  # (U,), (B,)
        count = 1 if labels is None else labels.shape[0]
        parts = modulations(timesteps.expand(count, -1), labels)
        self.sizes = [part.shape[-1] for part in parts]
        self.table = torch.cat(list(parts), dim=-1)  # (U, K, sum of sizes)
        self.place = timesteps.new_zeros(int(timesteps[-1]) + 1)  # of a timestep in the table
        self.place[timesteps] = torch.arange(len(timesteps), device=timesteps.device)

    def __call__(self, t: Tensor) -> list[Tensor]:
        """Look up timesteps (B, F); return one tensor (B, F, ...) per block."""
        found = self.table[self.rows[:, None], self.place[t]]  # (B, F, sum of sizes)
        return list(found.split(self.sizes, dim=-1))
