"""Full float32: TensorFloat32 and half precision would shift a Fréchet distance."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in float32 on a device while the context lasts, and the same way every time."""
    # Unlike `allow_tf32`, this can be put back whatever was chosen by
    # `torch.set_float32_matmul_precision`.
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        with (
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
            torch.autocast(device_type=device.type, enabled=False),
        ):
            yield
    finally:
        matmul.fp32_precision = before
