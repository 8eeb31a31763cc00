"""Noise schedule: x_t = alpha_t x + sigma_t eps with alpha_t^2 = abar_t, sigma_t^2 = 1 - abar_t.

beta_t = (sqrt(beta_start) + t / (T - 1) (sqrt(beta_end) - sqrt(beta_start)))^2,
abar_t = prod_{u <= t} (1 - beta_u), t = 0 nearly clean, t = T - 1 nearly pure noise.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor


class NoiseSchedule:
    """Variance-preserving schedule whose betas are linear in their square root.

    References:
        AR-Diffusion, supplement, Table 3. It prints beta_end = 0.002, which keeps abar = 0.43 at
        the last step, so that sampling from pure noise leaves the training distribution; the
        published weights were trained with 0.02, the default here.

    Args:
        beta_start: Noise added by the first step, in (0, 1).
        beta_end: Noise added by the last step, in (0, 1).
        timesteps: Number of training timesteps T.
    """

    def __init__(
        self, beta_start: float = 1e-4, beta_end: float = 0.02, timesteps: int = 1000
    ) -> None:
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(
                f"The schedule needs 0 < beta_start <= beta_end < 1, got {beta_start} and "
                f"{beta_end}."
            )
        if timesteps < 1:
            raise ValueError(f"The schedule needs at least one timestep, got {timesteps}.")
        self.beta_start = beta_start
        self.beta_end = beta_end
        self.timesteps = timesteps
        # On the CPU whatever the default device is: not every device knows float64.
        roots = torch.linspace(
            beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64, device="cpu"
        )
        self.alphas_cumprod = torch.cumprod(1 - roots**2, dim=0)  # (T,)
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        if self.alphas_cumprod[-1] > 0.01:
            warnings.warn(
                f"The noise schedule ends at abar = {self.alphas_cumprod[-1]:.2f}: samples start "
                f"from pure noise, which training never shows (beta_end = {beta_end}).",
                stacklevel=2,
            )

    def alpha_sigma(self, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return alpha_t and sigma_t of timesteps (B, F), for latents: (B, F, 1, 1) each."""
        place = t.device, dtype
        if place not in self._tables:
            abar = self.alphas_cumprod
            table = torch.stack([abar.sqrt(), (1 - abar).sqrt()])  # (2, T)
            self._tables[place] = table.to(dtype).to(t.device)
        alpha, sigma = self._tables[place][:, t, None, None]  # (B, F, 1, 1) each
        return alpha, sigma

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t for clean latents x and standard normal noise (B, F, L, C) at t (B, F)."""
        alpha, sigma = self.alpha_sigma(t, dtype=x.dtype)
        return alpha * x + sigma * noise


@dataclass(frozen=True)
class StepTimes:
    """Where the step indices k = 0 (pure noise) .. S (clean) of a solver lie on the schedule."""

    leaving: Tensor  # timestep told to the network for a frame about to leave index k, (S,)
    waiting: int  # timestep told for a frame that stays pure noise
    clean: int  # timestep told for a finished frame
    alphas_cumprod: Tensor  # abar at index k, (S + 1,), float64

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
        rest = self.leaving.new_tensor([self.waiting, self.clean])
        return torch.cat([self.leaving, rest]).unique()

    def alpha_sigma(self, index: Tensor) -> tuple[Tensor, Tensor]:
        abar = self.alphas_cumprod[index]
        return abar.sqrt(), (1 - abar).sqrt()
