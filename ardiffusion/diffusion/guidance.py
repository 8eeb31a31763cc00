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

    def __call__(self, x_t: Tensor, t: Tensor, **given: Any) -> Tensor:  # noqa: ANN401
        """Predict from x_t (B, F, L, C) and t (B, F)."""
        given = both_halves(given, batch=len(x_t), device=x_t.device)
        output = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), **given)
        without, guiding = output.to(x_t.dtype).chunk(2)
        return without + self.scale * (guiding - without)

    def make_cache(self, *, batch: int, device: torch.device, **given: Any) -> Cache:  # noqa: ANN401
        """Return the network's cache for both halves."""
        given = both_halves(given, batch=batch, device=device)
        return self.denoiser.make_cache(batch=2 * batch, device=device, **given)


def both_halves(given: dict[str, Any], batch: int, device: torch.device) -> dict[str, Any]:
    """Repeat a network's labels (B,), and let the first half go without its condition."""
    label, null = given.get("label"), torch.arange(2 * batch, device=device) < batch
    return {**given, "label": None if label is None else torch.cat([label, label]), "null": null}
