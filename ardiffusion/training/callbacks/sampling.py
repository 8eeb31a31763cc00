"""What callbacks that sample videos ask of a stage-2 module, and the seeds they give it."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ardiffusion.diffusion.sampler import Sampler

SEEDS_APART = 1_000_000


class VideoGenerator(Protocol):
    """A LightningModule that makes videos, such as `DiffusionModule`."""

    classes: list[str]

    @property
    def device(self) -> torch.device: ...

    def generate(
        self, sampler: Sampler, seeds: Sequence[int], frames: int, label: Tensor | None = None
    ) -> Tensor:
        """Make one uint8 video per seed, (B, F, 3, H, W)."""
        ...


def sample_seeds(seed: int, indices: Iterable[int]) -> list[int]:
    """Seed of each sample, from the run's seed and the sample's index alone.

    Runs whose seeds differ share no sample as long as they draw fewer than a million.
    """
    return [seed * SEEDS_APART + index for index in indices]


def sample_labels(module: VideoGenerator, indices: Sequence[int]) -> Tensor | None:
    """Classes of the samples, in turn; `None` where there are none."""
    if not module.classes:
        return None
    labels = [index % len(module.classes) for index in indices]
    return torch.tensor(labels, device=module.device)
