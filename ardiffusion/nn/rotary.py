"""Rotary position embedding over the frame index (Su et al., RoFormer, 2021).

The pair (2 i, 2 i + 1) of a head's channels of frame f is rotated by the angle f theta^(-2 i / d),
so that attention depends on the distance between frames alone and their number is free.
"""

import torch
from einops import rearrange, repeat
from torch import Tensor


def rotary_phases(
    position: int | Tensor, frames: int, width: int, device: torch.device, theta: float = 1e4
) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of consecutive frames.

    The angles are computed in float64: in float32, frame 100 000 would be off by a hundredth.

    Args:
        position: Absolute index of the first frame; a tensor without dimensions if it varies.
        frames: Number of frames F.
        width: Width of one head d, even.
        device: Where the tables shall live.
        theta: Base of the wavelengths.

    Returns:
        Two tables of shape (F, d), float64; sines are negative on even channels.
    """
    index = position + torch.arange(frames, dtype=torch.float64, device=device)
    exponent = torch.arange(0, width, 2, dtype=torch.float64, device=device) / width
    angles = repeat(index[:, None] * theta**-exponent, "f i -> f (i two)", two=2)  # (F, d)
    sin = angles.sin()
    sin[:, ::2].neg_()
    return angles.cos(), sin


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the channel pairs of `x` (..., d) by the angles whose tables broadcast to it."""
    even, odd = rearrange(x, "... (i two) -> two ... i", two=2)  # (..., d / 2) each
    swapped = rearrange([odd, even], "two ... i -> ... (i two)")  # (..., d)
    return torch.addcmul(x * cos, swapped, sin)
