"""Keys and values of the frames that are done, preallocated, and who attends to them.

A frame's keys and values are written in every iteration while it is denoised and kept once it is
clean: `write` puts those of the current frames behind the kept ones, `advance` keeps the first of
them. Frames that have left the attention window are dropped, so memory does not grow.

`KVCache` hands out exactly the frames that count, so that nothing is computed in vain.
`RingCache` hands out all its slots and a mask in tensors whose shapes and addresses never change,
so that one CUDA graph or one compiled function serves every iteration.
"""

from typing import Protocol

import torch
from torch import Tensor

from ardiffusion.nn.attention import attend
from ardiffusion.nn.conditions import ConditionTable
from ardiffusion.nn.masks import additive, causal_mask, frame_mask


class Memory(Protocol):
    """What a network asks of whatever says which frames its current ones attend to."""

    @property
    def position(self) -> int | Tensor:
        """Absolute index of the first of the current frames."""
        ...

    @property
    def conditions(self) -> ConditionTable | None:
        """Modulations of the timesteps and labels of a run, if they are kept."""
        ...

    def begin(self, frames: int) -> None:
        """Make ready for `frames` frames."""
        ...

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let the current frames attend, shapes (B, h, F L, d)."""
        ...


class Uncached:
    """Stands in for a cache where all frames are computed together, as in training.

    Frames are attended to `window` at a time, so that time and masks grow with the number of
    frames and not with its square.

    Args:
        tokens: Tokens per frame L.
        window: Frames that a frame attends to, itself included.
        device: Where the frames live.
    """

    position = 0
    conditions = None

    def __init__(self, tokens: int, window: int, device: torch.device) -> None:
        self.tokens, self.window, self.device = tokens, window, device
        self.parts: list[tuple[slice, slice, Tensor | None]]  # queries, keys, mask

    def begin(self, frames: int) -> None:
        """Divide `frames` frames into parts that are attended to together."""
        tokens, window, self.parts = self.tokens, self.window, []
        for first in range(0, frames, window):
            end, start = min(first + window, frames), max(first - window + 1, 0)
            mask = causal_mask(end - first, end - start, tokens, window, device=self.device)
            queries, keys = (slice(i * tokens, end * tokens) for i in (first, start))
            self.parts.append((queries, keys, mask))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let frames attend, shapes (B, h, F L, d)."""
        parts = [
            attend(q[:, :, queries], k[:, :, keys], v[:, :, keys], mask=mask)
            for queries, keys, mask in self.parts
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


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
        conditions: Modulations of the timesteps and labels that the run will meet; computed
            anew for every call when not given.
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
        conditions: ConditionTable | None = None,
    ) -> None:
        self.tokens = tokens
        self.window = window
        self.frames = frames
        self.device = device
        self.conditions = conditions
        self.capacity = self.slots()
        size = (layers, 2, batch, heads, self.capacity * tokens, width)
        self.buffer = torch.zeros(size, dtype=dtype, device=device)
        self.mask: Tensor | None = None  # of the current frames, made for all layers at once
        self.position: int | Tensor = 0  # absolute index of the frame that is written next
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        # Frame by frame no key is looked at in vain; other devices want few large calls instead,
        # and so does bfloat16 on a CPU, where all scores of a layer are one product.
        self.by_frames = self.device.type == "cpu" and self.buffer.dtype != torch.bfloat16
        self.position = 0
        self.start = 0  # slot of the first kept frame
        self.kept = 0  # frames kept for later ones to attend to

    def slots(self) -> int:
        """Return how many frames the buffer holds."""
        # Twice the kept frames: it then moves to its front once per window, not per frame.
        return 2 * (self.window - 1) + self.frames

    def begin(self, frames: int) -> None:
        """Make ready for `frames` frames, which all layers are about to write."""
        if self.by_frames:
            return
        keys = self.kept + frames
        mask = causal_mask(frames, keys, self.tokens, self.window, device=self.device)
        self.mask = None if mask is None else additive(mask, dtype=self.buffer.dtype)

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

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write the current frames and let them attend to all that they see.

        Args:
            layer: Index of the layer.
            q: Queries of the current frames, shape (B, h, F L, d).
            k: Keys of the current frames, shape (B, h, F L, d).
            v: Values of the current frames, shape (B, h, F L, d).

        Returns:
            What was attended to, shape (B, h, F L, d).
        """
        keys, values = self.write(layer, k=k, v=v)
        if not self.by_frames:
            return attend(q, keys, values, mask=self.mask)
        if q.shape[2] == self.tokens:
            return attend(q, keys, values)
        parts = []
        for i, part in enumerate(q.split(self.tokens, dim=2)):
            end = self.kept + i + 1
            seen = slice(max(end - self.window, 0) * self.tokens, end * self.tokens)
            parts.append(attend(part, keys[:, :, seen], values[:, :, seen]))
        return torch.cat(parts, dim=2)

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


class RingCache(KVCache):
    """The same cache in a ring: frame f lives in slot f modulo the number of slots.

    Where the next frame goes is a tensor, and who sees whom follows from it, so every iteration
    is the same computation on the same memory. Slots that hold no frame yet, or one that has left
    the window, are masked.
    """

    rows: Tensor  # where the current frames' tokens go

    def reset(self) -> None:
        self.by_frames = False
        self.position = torch.zeros((), dtype=torch.int64, device=self.device)

    def slots(self) -> int:
        return self.window - 1 + self.frames

    def begin(self, frames: int) -> None:
        assert frames <= self.frames, "more frames than the cache was made for"
        query = self.position + torch.arange(frames, device=self.device)
        slot = torch.arange(self.capacity, device=self.device)
        last = self.position + frames - 1
        key = last - (last - slot) % self.capacity  # the latest frame that goes to the slot
        token = torch.arange(self.tokens, device=self.device)
        self.rows = ((query % self.capacity)[:, None] * self.tokens + token).flatten()
        key = torch.where(key < 0, last + 1, key)  # nobody sees what comes after the last
        mask = frame_mask(query, key, tokens=self.tokens, window=self.window)
        self.mask = additive(mask, dtype=self.buffer.dtype)

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.buffer[layer]
        keys.index_copy_(2, self.rows, k)
        values.index_copy_(2, self.rows, v)
        return keys, values

    def advance(self, frames: int) -> None:
        self.position += frames  # in place: graphs read it
