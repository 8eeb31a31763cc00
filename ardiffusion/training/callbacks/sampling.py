"""What callbacks that sample videos ask of a stage-2 module, and the seeds they give it."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ardiffusion.diffusion.noise import sample_seed
from ardiffusion.diffusion.sampler import Sampler


class VideoGenerator(Protocol):
    """A LightningModule that makes videos, such as `DiffusionModule`."""

    classes: list[str]

    @property
    def device(self) -> torch.device: ...

    def sampler(self, steps: int, difference: int, guidance: float) -> Sampler:
        """Make a sampler for the schedule and the target that the module trains with."""
        ...

    def generate(
        self, sampler: Sampler, seeds: Sequence[int], frames: int, label: Tensor | None = None
    ) -> Tensor:
        """Make one uint8 video per seed, (B, F, 3, H, W)."""
        ...


def sample_seeds(seed: int, indices: Iterable[int]) -> list[int]:
    """Seed of each sample, from the run's seed and the sample's index alone."""
    return [sample_seed(seed, index) for index in indices]


def sample_labels(module: VideoGenerator, indices: Sequence[int]) -> Tensor | None:
    """Classes of the samples, in turn; `None` where there are none."""
    if not module.classes:
        return None
    labels = [index % len(module.classes) for index in indices]
    return torch.tensor(labels, device=module.device)
