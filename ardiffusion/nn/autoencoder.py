"""What the project asks of stage 1: frames to a few Gaussian tokens each, and tokens to video.

Latents have one shape everywhere, (B, F, L, C): L tokens of C numbers for each of F frames.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn


def to_unit(video: Tensor) -> Tensor:
    """Turn uint8 video into floats in [0, 1]."""
    return video.float() / 255


def to_bytes(video: Tensor) -> Tensor:
    """Turn video around [0, 1] into uint8, clamped and rounded; NaN would be black."""
    if not video.isfinite().all():
        raise ValueError(
            "A frame is not finite: the weights are broken, or too large for this precision; try "
            "--trainer.precision 32-true or an earlier checkpoint."
        )
    return (video.float().clamp(0, 1) * 255).round().to(torch.uint8)


def together(device: torch.device) -> int:
    """Frames to decode in one go where none is waited for: one does not fill a GPU."""
    return 8 if device.type == "cuda" else 1


def in_groups(frames: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Put frames (B, L, C) together as they come, `size` at a time but for the last ones."""
    frames = iter(frames)
    while group := list(islice(frames, size)):
        yield torch.stack(group, dim=1)  # (B, F, L, C)


class Posterior(NamedTuple):
    """The diagonal Gaussian of the latent tokens, mean and log-variance (B, F, L, C)."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Map standard normal noise (B, F, L, C) to a sample (B, F, L, C)."""
        return self.mean + (0.5 * self.logvar).exp() * noise

    def kl(self) -> Tensor:
        """Compute the divergence from the standard normal in nats, summed per frame (B, F)."""
        terms = 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar)
        return terms.sum(dim=(-2, -1))


class Autoencoder(nn.Module, ABC):
    """A network of stage 1, trained by `ARVAEModule` and frozen in a `Generator`.

    `encode` gives latents, which caches hold; stage 2 learns `normalise` of them; `decode` takes
    either, so `decode(normalise(z))` is `decode(z)`.
    """

    resolution: int  # height and width of a frame in pixels
    tokens: int  # per frame, L
    channels: int  # per token, C
    temporal: bool = False  # whether the decoder sees earlier frames

    def forward(
        self, video: Tensor, noise: Tensor | None = None, error: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode video (B, F, 3, H, W) in [0, 1] and decode a sample, or the mean without noise.

        An `error` (B, F, L, C) is added to the normalised latents before they are decoded.

        Returns:
            The reconstruction (B, F, 3, H, W), unclamped, and the posterior's mean and
            log-variance (B, F, L, C).
        """
        posterior = self.posterior(video)
        latents = posterior.mean if noise is None else posterior.sample(noise)
        if error is not None:
            latents = self.normalise(latents) + error
        return self.decode(latents), posterior.mean, posterior.logvar

    def encode(self, video: Tensor) -> Tensor:
        """Encode video (B, F, 3, H, W) in [0, 1] to mean tokens (B, F, L, C)."""
        return self.posterior(video).mean

    @abstractmethod
    def posterior(self, video: Tensor) -> Posterior:
        """Encode video (B, F, 3, H, W) in [0, 1] to the Gaussian of its tokens (B, F, L, C)."""

    @abstractmethod
    def normalise(self, latents: Tensor) -> Tensor:
        """Map latents (B, F, L, C) to what stage 2 learns; twice is the same as once."""

    def update_statistics(self, latents: Tensor) -> None:
        """Take note of the latents (B, F, L, C) of a training batch, after its step.

        Not in `forward`, whose gradients need the network as it was.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Decode tokens (B, F, L, C) of any length to video (B, F, 3, H, W), unclamped."""

    @abstractmethod
    def stream_decode(self, latents: Iterable[Tensor], together: int = 1) -> Iterator[Tensor]:
        """Decode frames of tokens (B, L, C) as they come, to frames (B, 3, H, W), without end.

        So many frames `together` are asked for when those before them are out; memory does not
        grow.
        """

    @property
    @abstractmethod
    def last_layer(self) -> Tensor:
        """The weight whose gradients balance the adversarial loss."""

    def temporal_parameters(self) -> Iterator[nn.Parameter]:
        """List what stage 1b trains."""
        return iter(())
