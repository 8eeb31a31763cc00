"""Keys and values of the frames that are done, one preallocated buffer for all layers.

A frame's keys and values are written in every iteration while it is denoised and kept once it is
clean: `write` puts those of the current frames behind the kept ones, `advance` keeps the first of
them. Frames that have left the attention window are dropped, so memory does not grow.
"""

import torch
from torch import Tensor


class KVCache:
    """Sliding-window cache of keys and values.

    Args:
        layers: Number of attention layers.
        batch: Number of sequences B.
        heads: Number of heads h.
        width: Width of one head d.
        tokens: Tokens per frame L.
        window: Frames that a frame attends to, itself included.
        frames: Most frames written at once.
        dtype: Type of the keys and values.
        device: Where they live.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        width: int,
        tokens: int,
        window: int,
        frames: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.tokens = tokens
        self.window = window
        # Twice the kept frames: the buffer then moves to its front once per window, not per frame.
        self.capacity = 2 * (window - 1) + frames
        size = (layers, 2, batch, heads, self.capacity * tokens, width)
        self.buffer = torch.zeros(size, dtype=dtype, device=device)
        self.start = 0  # slot of the first kept frame
        self.kept = 0  # frames kept for later ones to attend to
        self.position = 0  # absolute index of the frame that is written next

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put the current frames behind the kept ones.

        Args:
            layer: Index of the layer.
            k: Keys of the current frames, shape (B, h, F L, d).
            v: Values of the current frames, shape (B, h, F L, d).

        Returns:
            Keys and values of kept and current frames, shape (B, h, (kept + F) L, d).
        """
        here = (self.start + self.kept) * self.tokens
        end = here + k.shape[2]
        assert end <= self.buffer.shape[4], "more frames than the cache was made for"
        self.buffer[layer, 0, :, :, here:end] = k
        self.buffer[layer, 1, :, :, here:end] = v
        seen = self.buffer[layer, :, :, :, self.start * self.tokens : end]
        return seen[0], seen[1]

    def advance(self, frames: int) -> None:
        """Keep the first `frames` of the frames written last."""
        self.position += frames
        self.kept += frames
        surplus = max(self.kept - (self.window - 1), 0)
        self.kept -= surplus
        self.start += surplus
        if self.start > self.window - 1:
            first, size = self.start * self.tokens, self.kept * self.tokens
            self.buffer[..., :size, :] = self.buffer[..., first : first + size, :].clone()
            self.start = 0
