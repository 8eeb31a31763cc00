"""Products on a CPU: oneDNN makes training faster, torch.compile makes everything slower."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.utilities import rank_zero_info

from ardiffusion.nn.packed import has_onednn


@contextmanager
def fast_products() -> Iterator[None]:
    """Let oneDNN compute products of float32 while the context lasts, in backward passes too.

    It rounds to bfloat16 on a CPU with AMX, which is therefore left alone, as are machines with
    another device, which would obey the setting as well.
    """
    rounds = torch.cpu._is_amx_tile_supported() or torch.accelerator.is_available()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if has_onednn() and not rounds else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def say_of_compile(trainer: Trainer) -> None:
    """Tell who compiles for a CPU what it costs."""
    if isinstance(trainer.accelerator, CPUAccelerator):
        rank_zero_info("torch.compile takes a minute on a CPU and makes it slower; leave it out.")
