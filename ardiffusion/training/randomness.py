"""Randomness of training steps: every batch of every process draws from a generator of its own.

Processes that are seeded alike would draw the same noise for different clips, and a resumed run
other noise than the run that was not killed.
"""

import hashlib

import torch
from lightning import Trainer
from torch import Tensor


def step_generator(trainer: Trainer, device: torch.device) -> torch.Generator:
    """Return the generator of the batch in training, seeded by run, batch and process."""
    batch = trainer.fit_loop.total_batch_idx
    name = f"{torch.initial_seed()}/{batch}/{trainer.global_rank}"
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
    return torch.Generator(device).manual_seed(seed)


def graded_noise(size: tuple[int, ...], most: float, generator: torch.Generator) -> Tensor | None:
    """Draw noise (B, F, L, C) whose standard deviation is drawn for each frame from [0, most)."""
    if most == 0:
        return None
    place = generator.device
    level = torch.rand(*size[:2], 1, 1, generator=generator, device=place)
    return most * level * torch.randn(size, generator=generator, device=place)
