"""Where the steps of a solver lie on the noise schedule."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The step indices k = 0 (pure noise) .. S (clean) on the schedule.

    Attributes:
        leaving: Timestep told to the network for a frame about to leave index k, shape (S,).
        waiting: Timestep told for a frame that stays pure noise.
        clean: Timestep told for a finished frame.
        alphas_cumprod: abar at index k, shape (S + 1,), float64.
    """

    leaving: Tensor
    waiting: int
    clean: int
    alphas_cumprod: Tensor

    @property
    def steps(self) -> int:
        return len(self.leaving)

    def timesteps(self, before: Tensor, after: Tensor) -> Tensor:
        """Return what the network is told of frames that go from index `before` to `after`."""
        t = self.leaving[before.clamp(max=self.steps - 1)]
        t = torch.where((before == 0) & (after == 0), self.waiting, t)
        return torch.where(before == self.steps, self.clean, t)

    def all_timesteps(self) -> Tensor:
        """Return every timestep that the network may be told, each once, rising."""
        return torch.cat([self.leaving, torch.tensor([self.waiting, self.clean])]).unique()

    def alpha_sigma(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at step indices of shape (F,), float64."""
        abar = self.alphas_cumprod[index]
        return abar.sqrt(), (1 - abar).sqrt()
