"""Randomness of training steps: every batch of every process draws from a generator of its own.

Processes that are seeded alike would draw the same noise for different clips, and a resumed run
other noise than the run that was not killed.
"""

import hashlib

import torch
from lightning import Trainer


def step_generator(trainer: Trainer, device: torch.device) -> torch.Generator:
    """Return the generator of the batch in training, seeded by run, batch and process."""
    batch = trainer.fit_loop.total_batch_idx
    name = f"{torch.initial_seed()}/{batch}/{trainer.global_rank}"
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
    return torch.Generator(device).manual_seed(seed)
