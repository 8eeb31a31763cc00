"""Rotary position embedding over the frame index (Su et al., RoFormer, 2021).

The pair (2 i, 2 i + 1) of a head's channels of frame f is rotated by the angle f 10000^(-2 i / d),
so that attention depends on the distance between frames alone and their number is free.
"""

import torch
from einops import rearrange, repeat
from torch import Tensor

FLOAT64 = ("cpu", "cuda", "meta")  # devices that know it; Apple's GPUs do not
Phases = tuple[Tensor, Tensor]  # cosines and sines, the latter negative on even channels


def float64_device(device: torch.device) -> torch.device:
    """Return where to compute in float64 for a device: on the CPU if it has no such numbers."""
    return device if device.type in FLOAT64 else torch.device("cpu")


def rotary_phases(index: Tensor, width: int, dtype: torch.dtype = torch.float32) -> Phases:
    """Return the cosines and sines of frames of these indices (F,), shape (F, d) each.

    The angles are computed in float64: in float32, frame 100 000 would be off by a hundredth.
    """
    device, exact = index.device, index.to(float64_device(index.device))
    exponent = torch.arange(0, width, 2, dtype=torch.float64, device=exact.device) / width
    angles = repeat(exact[:, None] * 1e4**-exponent, "f i -> f (i two)", two=2)  # (F, d)
    cos, sin = angles.cos(), angles.sin()
    sin[:, ::2].neg_()
    return cos.to(device, dtype), sin.to(device, dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the channel pairs of `x` (..., d) by the angles whose tables broadcast to it."""
    even, odd = rearrange(x, "... (i two) -> two ... i", two=2)  # (..., d / 2) each
    swapped = rearrange([odd, even], "two ... i -> ... (i two)")  # (..., d)
    return torch.addcmul(x * cos, swapped, sin)
