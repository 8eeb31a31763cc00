"""The noise that videos are made of: sample i of a run depends on its own seed alone.

Not on batch size, device count or order. Frame f of its noise is drawn after frame f - 1, so a
longer video of the same seed begins alike, and not before it is needed, so memory does not depend
on the length. What a solver adds in its steps comes from generators of its own.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

LAST_SEED = 4293  # of a run; torch's CPU generators use 32 bits of a sample's seed


def sample_seed(seed: int, index: int) -> int:
    """Return the seed of a run's sample; runs share no sample below a million."""
    return seed * 1_000_000 + index


def sample_seeds(seed: int, indices: Iterable[int]) -> list[int]:
    return [sample_seed(seed, index) for index in indices]


def step_seed(seed: int) -> int:
    """Return the seed of what a solver adds to a sample, none of the same run's noise."""
    return seed ^ 0x9E3779B9  # differs by more than 2^30 from any seed within a million


class FrameNoise:
    """Draws each sample's noise (L, C) from its own generator, when a frame's turn comes."""

    def __init__(self, generators: Sequence[torch.Generator], tokens: int, channels: int) -> None:
        self.generators = generators
        self.size = (tokens, channels)
        self.drawn = 0
        self.last: Tensor | None = None

    def __call__(self, frame: int) -> Tensor:
        """Return the noise (B, L, C) of a frame, on the CPU; frames are asked in order."""
        while self.last is None or self.drawn <= frame:
            # in float32 whatever the weights are in
            drawn = [
                torch.randn(self.size, generator=g, dtype=torch.float32) for g in self.generators
            ]
            self.last = torch.stack(drawn)
            self.drawn += 1
        assert frame == self.drawn - 1, "the noise of earlier frames is not kept"
        return self.last


class StepNoise:
    """Draws what a solver adds to frames, each frame from generators of its own.

    So what a frame gets depends on the samples' generators and on its index alone, neither on the
    length of the video nor on the frames that move beside it.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = generators
        self.own: dict[int, list[torch.Generator]] = {}
        self.begun = 0

    def __call__(self, frame: int, like: Tensor) -> Tensor:
        """Return the noise of a frame's next step for all samples, as `like`, on the CPU."""
        while self.begun <= frame:
            drawn = [torch.randint(2**32, (), generator=g) for g in self.generators]
            self.own[self.begun] = [torch.Generator().manual_seed(int(seed)) for seed in drawn]
            self.begun += 1
        pairs = zip(like, self.own[frame], strict=True)
        return torch.stack([torch.randn(x.shape, generator=g, dtype=x.dtype) for x, g in pairs])

    def drop(self, before: int) -> None:
        """Forget the frames before an index."""
        self.own = {frame: own for frame, own in self.own.items() if frame >= before}


def latent_noise(
    generators: Sequence[torch.Generator], frames: int, tokens: int, channels: int
) -> Tensor:
    """Draw the noise of whole videos, shape (B, F, L, C), as `FrameNoise` does frame by frame."""
    noise = FrameNoise(generators, tokens=tokens, channels=channels)
    return torch.stack([noise(f) for f in range(frames)], dim=1)
