"""Keys and values of earlier frames for a temporal attention of the AR-VAE's decoder.

A frame sees `window` frames, itself included, so the keys and values of `window` - 1 are kept,
however long the video. The order of keys does not matter to attention, which knows no positions.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class FrameCache(ABC):
    """What an attention knows of earlier frames.

    Args:
        window: How many frames a frame sees, itself included.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.frames = 0  # earlier frames that it holds
        self.keys_values: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put earlier frames before new keys and values, frames in dimension 2; keep the last.

        A single new frame sees everything, so the earlier ones may then come in any order.
        """


class GrowingCache(FrameCache):
    """Cache that gradients pass: it keeps what it was given."""

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.keys_values is not None:
            k, v = (torch.cat(x, dim=2) for x in zip(self.keys_values, (k, v), strict=True))
        forgotten = max(k.shape[2] - self.window + 1, 0)
        self.keys_values = k[:, :, forgotten:], v[:, :, forgotten:]
        self.frames = k.shape[2] - forgotten
        return k, v


class RingCache(FrameCache):
    """Cache for inference, made once: frame f lies in slot f modulo the window and never moves.

    What it returns for a single frame lasts until the next call.
    """

    seen = 0

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.keys_values is None:
            size = (*k.shape[:2], self.window, *k.shape[3:])
            self.keys_values = k.new_empty(size), v.new_empty(size)
        joined_k, joined_v = (self.extend(*x) for x in zip(self.keys_values, (k, v), strict=True))
        self.seen += k.shape[2]
        self.frames = min(self.seen, self.window - 1)
        return joined_k, joined_v

    def extend(self, ring: Tensor, new: Tensor) -> Tensor:
        """Return earlier frames and `new`, and write the last frames of `new` over the oldest."""
        count = new.shape[2]
        joined = new
        if count > 1 and self.frames:
            slots = [f % self.window for f in range(self.seen - self.frames, self.seen)]
            joined = torch.cat([*(ring[:, :, i : i + 1] for i in slots), new], dim=2)
        for i in range(max(count - self.window, 0), count):
            ring[:, :, (self.seen + i) % self.window] = new[:, :, i]
        return ring[:, :, : min(self.seen + 1, self.window)] if count == 1 else joined
