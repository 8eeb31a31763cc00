"""Noise schedule: x_t = alpha_t x + sigma_t eps with alpha_t^2 = abar_t, sigma_t^2 = 1 - abar_t.

beta_t = (sqrt(beta_start) + t / (T - 1) (sqrt(beta_end) - sqrt(beta_start)))^2,
abar_t = prod_{u <= t} (1 - beta_u), t = 0 nearly clean, t = T - 1 nearly pure noise.
"""

import warnings

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
        roots = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64)
        self.alphas_cumprod = torch.cumprod(1 - roots**2, dim=0)  # (T,)
        self._tables: dict[torch.device, Tensor] = {}
        if self.alphas_cumprod[-1] > 0.01:
            warnings.warn(
                f"The noise schedule ends at abar = {self.alphas_cumprod[-1]:.2f}: samples start "
                f"from pure noise, which training never shows (beta_end = {beta_end}).",
                stacklevel=2,
            )

    def alpha_sigma(self, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return alpha_t and sigma_t.

        Args:
            t: Timesteps, shape (B, F), integers in [0, T).
            dtype: Type of the result.

        Returns:
            Two tensors that broadcast against latents, shape (B, F, 1, 1).
        """
        if t.device not in self._tables:
            self._tables[t.device] = self.alphas_cumprod.to(t.device)
        return alpha_sigma(self._tables[t.device][t], dtype=dtype)

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t.

        Args:
            x: Clean latents, shape (B, F, L, C).
            noise: Standard normal noise, shape (B, F, L, C).
            t: Timesteps, shape (B, F).
        """
        alpha, sigma = self.alpha_sigma(t, dtype=x.dtype)
        return alpha * x + sigma * noise


def alpha_sigma(alphas_cumprod: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return sqrt(abar) and sqrt(1 - abar) of a (..., F) table as (..., F, 1, 1) factors."""
    abar = alphas_cumprod[..., None, None]  # (..., F, 1, 1)
    return abar.sqrt().to(dtype), (1 - abar).sqrt().to(dtype)
