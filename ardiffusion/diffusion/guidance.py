"""Classifier-free guidance (Ho and Salimans, 2022) as a denoiser around a denoiser.

With y the output under the condition and y_0 without it, the guided output is y_0 + w (y - y_0).
"""

from typing import Any

import torch
from torch import Tensor

from ardiffusion.diffusion.denoiser import Cache, Denoiser


class Guided:
    """A network guided by its condition, evaluated with and without it in one batch.

    Args:
        denoiser: The network; must have a condition.
        scale: The strength w; 1 is the network itself, 0 the network without its condition.
    """

    conditional = False

    def __init__(self, denoiser: Denoiser, scale: float) -> None:
        if not denoiser.conditional:
            raise ValueError(f"guidance {scale} needs a network with a condition; use guidance 1.")
        self.denoiser, self.scale = denoiser, scale
        self.window, self.strictly_causal = denoiser.window, denoiser.strictly_causal

    def __call__(
        self,
        x_t: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        null: Tensor | None = None,
        cache: Any = None,  # noqa: ANN401 what make_cache returned
    ) -> Tensor:
        """Predict from x_t (B, F, L, C) and t (B, F)."""
        label, null = self.both(label, batch=len(x_t), device=x_t.device)
        x_t, t = torch.cat([x_t, x_t]), torch.cat([t, t])  # (2 B, F, ...)
        output = self.denoiser(x_t, t, label=label, null=null, cache=cache)
        without, given = output.to(x_t.dtype).chunk(2)
        return without + self.scale * (given - without)

    def make_cache(
        self,
        batch: int,
        frames: int,
        device: torch.device,
        timesteps: Tensor | None = None,
        label: Tensor | None = None,
        null: Tensor | None = None,
        static: bool = False,
    ) -> Cache:
        """Return the network's cache for both halves."""
        label, null = self.both(label, batch=batch, device=device)
        return self.denoiser.make_cache(
            batch=2 * batch,
            frames=frames,
            device=device,
            timesteps=timesteps,
            label=label,
            null=null,
            static=static,
        )

    def both(
        self, label: Tensor | None, batch: int, device: torch.device
    ) -> tuple[Tensor | None, Tensor]:
        """Return the labels of both halves and which half goes without its condition."""
        null = torch.arange(2 * batch, device=device) < batch
        return None if label is None else torch.cat([label, label]), null
