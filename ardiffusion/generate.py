"""From seeds to video: noise, sampler and decoder in a row, frame by frame.

Sample i of a run depends on its own seed alone: not on batch size, device count or order. Frame f
of its noise is drawn after frame f - 1, so a longer video of the same seed begins alike, and not
before it is needed, so memory does not depend on the length. What a solver adds in its steps comes
from generators of its own.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ardiffusion.diffusion.denoiser import Denoiser
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.nn.autoencoder import Autoencoder

LAST_SEED = 4293  # of a run; torch's CPU generators use 32 bits of a sample's seed


def sample_seed(seed: int, index: int) -> int:
    """Return the seed of sample `index` of a run.

    Runs of different seeds share no sample below a million.
    """
    return seed * 1_000_000 + index


def to_unit(video: Tensor) -> Tensor:
    """Turn uint8 video into floats in [0, 1]."""
    return video.float() / 255


def to_bytes(video: Tensor) -> Tensor:
    """Turn video around [0, 1] into uint8, clamped and rounded."""
    return (video.float().clamp(0, 1) * 255).round().to(torch.uint8)


def step_seed(seed: int) -> int:
    """Return the seed of what a solver adds to a sample, none of the same run's noise."""
    return seed ^ 0x9E3779B9  # differs by more than 2^30 from any seed within a million


class FrameNoise:
    """Draws each sample's noise from its own generator, when a frame's turn comes.

    Args:
        generators: One per sample.
        tokens: Tokens per frame L.
        channels: Channels per token C.
    """

    def __init__(self, generators: Sequence[torch.Generator], tokens: int, channels: int) -> None:
        self.generators = generators
        self.size = (tokens, channels)
        self.drawn = 0
        self.last: Tensor | None = None

    def __call__(self, frame: int) -> Tensor:
        """Return the noise (B, L, C) of a frame, on the CPU; frames are asked in order."""
        while self.last is None or self.drawn <= frame:
            self.last = torch.stack([self.draw(g) for g in self.generators])
            self.drawn += 1
        assert frame == self.drawn - 1, "the noise of earlier frames is not kept"
        return self.last

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw one sample's noise (L, C), in float32 whatever the weights are in."""
        return torch.randn(self.size, generator=generator, dtype=torch.float32)


def latent_noise(
    generators: Sequence[torch.Generator], frames: int, tokens: int, channels: int
) -> Tensor:
    """Draw the noise of whole videos, shape (B, F, L, C), as `FrameNoise` does frame by frame."""
    noise = FrameNoise(generators, tokens=tokens, channels=channels)
    return torch.stack([noise(f) for f in range(frames)], dim=1)


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
