"""From seeds to video: noise, sampler and decoder in a row, frame by frame.

Sample i of a run depends on its own seed alone: not on batch size, device count or order. Frame f
of its noise is drawn after frame f - 1, so a longer video of the same seed begins alike.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ardiffusion.diffusion.engine import Denoiser
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.nn.arvae import ARVAE


def sample_seed(seed: int, index: int) -> int:
    """Return the seed of sample `index` of a run.

    Runs of different seeds share no sample below a million; torch's CPU generators use 32 bits of
    a seed, so run seeds from 0 to 4293 are all different.
    """
    return seed * 1_000_000 + index


def to_unit(video: Tensor) -> Tensor:
    """Turn uint8 video into floats in [0, 1]."""
    return video.float() / 255


def to_bytes(video: Tensor) -> Tensor:
    """Turn video around [0, 1] into uint8, clamped and rounded."""
    return (video.float().clamp(0, 1) * 255).round().to(torch.uint8)


def latent_noise(
    generators: Sequence[torch.Generator], frames: int, tokens: int, channels: int
) -> Tensor:
    """Draw each sample's noise from its own generator, shape (B, F, L, C), on the CPU."""
    size = (tokens, channels)
    return torch.stack(
        [torch.stack([torch.randn(size, generator=g) for _ in range(frames)]) for g in generators]
    )


def generate(
    denoiser: Denoiser,
    arvae: ARVAE,
    sampler: Sampler,
    seeds: Sequence[int],
    frames: int,
    label: Tensor | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[Tensor]:
    """Yield the frames of a batch of new videos as they are finished.

    Args:
        denoiser: The generator network.
        arvae: The AR-VAE whose latents it was trained on.
        sampler: How to sample.
        seeds: One seed per video.
        frames: Length of the videos F.
        label: Class indices, shape (B,).
        progress: Called after each of the sampler's iterations.

    Yields:
        Frames of all videos, uint8, shape (B, 3, H, W).
    """
    device = next(arvae.parameters()).device
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = latent_noise(
        generators, frames=frames, tokens=arvae.tokens, channels=arvae.channels
    ).to(device)  # (B, F, L, C)
    latents = sampler.stream(
        denoiser, noise, label=label, generators=generators, progress=progress
    )
    with torch.no_grad():
        for frame in arvae.stream_decode(x for _, x in latents):
            yield to_bytes(frame)  # (B, 3, H, W)
