"""What a temporal attention of the AR-VAE's decoder remembers of earlier frames.

A frame sees `window` frames, itself included, so the keys and values of `window` - 1 are kept,
however long the video. The order of keys does not matter to attention, which knows no positions.
"""

from typing import Protocol

import torch
from torch import Tensor


class Past(Protocol):
    """What an attention asks of its memory."""

    @property
    def frames(self) -> int:
        """How many earlier frames it holds."""
        ...

    def join(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put the past before new keys and values, frames in dimension 2, and remember the end.

        A single new frame sees everything, so its past may come in any order.
        """
        ...


class PastFrames:
    """Memory that gradients pass: it keeps what it was given.

    Args:
        window: How many frames a frame sees, itself included.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.frames = 0
        self.keys_values: tuple[Tensor, Tensor] | None = None

    def join(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put the past before new keys and values, frames in dimension 2, and remember the end."""
        if self.keys_values is not None:
            k, v = (torch.cat(x, dim=2) for x in zip(self.keys_values, (k, v), strict=True))
        forgotten = max(k.shape[2] - self.window + 1, 0)
        self.keys_values = k[:, :, forgotten:], v[:, :, forgotten:]
        self.frames = k.shape[2] - forgotten
        return k, v


class PastRing:
    """Memory for inference, made once: frame f lies in slot f modulo the window and never moves.

    Args:
        window: How many frames a frame sees, itself included.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.seen = 0
        self.keys_values: tuple[Tensor, Tensor] | None = None

    @property
    def frames(self) -> int:
        return min(self.seen, self.window - 1)

    def join(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put the past before new keys and values, frames in dimension 2, and remember the end.

        The result for a single frame lasts until the next call.
        """
        if self.keys_values is None:
            size = (*k.shape[:2], self.window, *k.shape[3:])
            self.keys_values = k.new_empty(size), v.new_empty(size)
        joined = tuple(self.extend(*x) for x in zip(self.keys_values, (k, v), strict=True))
        self.seen += k.shape[2]
        return joined[0], joined[1]

    def extend(self, ring: Tensor, new: Tensor) -> Tensor:
        """Return the past and `new`, and write the last frames of `new` over the oldest."""
        count = new.shape[2]
        joined = new
        if count > 1 and self.frames:
            slots = [f % self.window for f in range(self.seen - self.frames, self.seen)]
            joined = torch.cat([*(ring[:, :, i : i + 1] for i in slots), new], dim=2)
        for i in range(max(count - self.window, 0), count):
            ring[:, :, (self.seen + i) % self.window] = new[:, :, i]
        return ring[:, :, : min(self.seen + 1, self.window)] if count == 1 else joined
