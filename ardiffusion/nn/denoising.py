"""The kind of network that stage 2 trains, so that options and errors can name its classes."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class DenoisingNetwork(nn.Module, ABC):
    """A network over noisy latents, as `Generator` takes it.

    What the sampler asks of it beside is the protocol `Denoiser`.
    """

    tokens: int  # per frame, L
    channels: int  # per token, C
    classes: int  # 0 without class condition

    @abstractmethod
    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        null: Tensor | None = None,
        cache: Any = None,  # noqa: ANN401 what its make_cache returns
    ) -> Tensor:
        """Predict the target (B, F, L, C) from latents x_t and timesteps t (B, F)."""
