"""From seeds to video: noise, sampler and decoder in a row, frame by frame."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ardiffusion.diffusion.denoiser import Denoiser
from ardiffusion.diffusion.noise import FrameNoise, step_seed
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.nn.autoencoder import Autoencoder, to_bytes


def generate(
    denoiser: Denoiser,
    arvae: Autoencoder,
    sampler: Sampler,
    seeds: Sequence[int],
    frames: int | None,
    label: Tensor | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[Tensor]:
    """Yield the frames of a batch of new videos as they are finished.

    Args:
        denoiser: The generator network.
        arvae: The AR-VAE whose latents it was trained on.
        sampler: How to sample.
        seeds: One seed per video.
        frames: Length of the videos F; without end if None. Memory does not depend on it.
        label: Class indices, shape (B,).
        progress: Called after each of the sampler's iterations.

    Yields:
        Frames of all videos, uint8, shape (B, 3, H, W).
    """
    device = next(arvae.parameters()).device
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = FrameNoise(generators, tokens=arvae.tokens, channels=arvae.channels)
    latents = sampler.stream(
        denoiser,
        lambda frame: noise(frame).to(device),
        label=label,
        generators=[torch.Generator().manual_seed(step_seed(seed)) for seed in seeds],
        progress=progress,
        frames=frames,
    )
    for frame in arvae.stream_decode(x for _, x in latents):
        yield to_bytes(frame)  # (B, 3, H, W)
