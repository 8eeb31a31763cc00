"""Which frames attend to which, and where their keys and values are.

`FullSequence` computes all frames together, as in training. In a cache a frame's keys and values
are written in every iteration while it is denoised and kept once it is clean: `write` puts those
of the current frames behind the kept ones, `advance` keeps the first of them. Frames that have
left the attention window are dropped, so memory does not grow.

`KVCache` shows exactly the frames that count, so that nothing is computed in vain. `StaticCache`
shows all its slots and a mask in tensors whose shapes and addresses never change, so that one CUDA
graph or one compiled function serves every iteration.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ardiffusion.nn.attention import additive, causal_mask, frame_mask
from ardiffusion.nn.conditions import ConditionTable


class Part(NamedTuple):
    """Queries that attend together: to which keys, and which of these each of them may see."""

    queries: slice
    keys: slice
    mask: Tensor | None = None


class AttentionContext(ABC):
    """What the current frames attend to.

    Attributes:
        position: Absolute index of the first of the current frames.
        conditions: Modulations of the timesteps and labels of a run, if they are kept.
        blocks: The network's blocks, packed for a run.
        parts: How the current frames attend, in the order of their tokens.
    """

    position: int | Tensor = 0
    conditions: ConditionTable | None = None
    blocks: nn.ModuleList | None = None
    parts: list[Part]

    @abstractmethod
    def prepare(self, frames: int) -> None:
        """Make the parts for `frames` frames, which all layers are about to write."""

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take the current frames' keys and values (B, h, F L, d); return all, as parts count."""
        return k, v

    def advance(self, frames: int) -> None:  # noqa: B027 only caches keep anything
        """Keep the first `frames` of the frames written last for later ones to attend to."""


class FullSequence(AttentionContext):
    """Frames of L tokens that are all computed together.

    They attend `window` at a time, so that time and masks grow with the number of frames and not
    with its square.
    """

    def __init__(self, tokens: int, window: int, device: torch.device) -> None:
        self.tokens, self.window, self.device = tokens, window, device

    def prepare(self, frames: int) -> None:
        tokens, window, self.parts = self.tokens, self.window, []
        for first in range(0, frames, window):
            end, start = min(first + window, frames), max(first - window + 1, 0)
            mask = causal_mask(end - first, end - start, tokens, window, device=self.device)
            queries, keys = (slice(i * tokens, end * tokens) for i in (first, start))
            self.parts.append(Part(queries, keys, mask))


class KVCache(AttentionContext):
    """Sliding-window cache of keys and values.

    Args:
        size: Number of layers, of sequences B and of heads h, and the width of one head d.
        tokens: Tokens per frame L.
        window: Frames that a frame attends to, itself included.
        frames: Most frames written at once.
        dtype: Type of the keys and values.
        device: Where they live.
    """

    def __init__(
        self,
        size: tuple[int, int, int, int],
        tokens: int,
        window: int,
        frames: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.tokens, self.window, self.frames, self.device = tokens, window, frames, device
        self.slots = self.count_slots()
        layers, batch, heads, width = size
        shape = (layers, 2, batch, heads, self.slots * tokens, width)
        self.buffer = torch.zeros(shape, dtype=dtype, device=device)
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self.position = 0
        self.start = 0  # slot of the first kept frame
        self.kept = 0  # frames kept for later ones to attend to

    def count_slots(self) -> int:
        # Twice the kept frames: they then move to the front once per window, not per frame.
        return 2 * (self.window - 1) + self.frames

    def prepare(self, frames: int) -> None:
        here, tokens = self.start + self.kept, self.tokens
        end = here + frames
        assert end <= self.slots, "more frames than the cache was made for"
        self.written = slice(here * tokens, end * tokens)
        # Frame by frame no key is looked at in vain; other devices want few large calls instead,
        # and so does bfloat16 on a CPU, where all scores of a layer are one product.
        if self.device.type == "cpu" and self.buffer.dtype != torch.bfloat16:
            self.parts = [self.part_of_frame(i, here=here) for i in range(frames)]
            return
        mask = causal_mask(frames, end - self.start, tokens, self.window, device=self.device)
        mask = None if mask is None else additive(mask, dtype=self.buffer.dtype)
        self.parts = [Part(slice(None), slice(self.start * tokens, end * tokens), mask)]

    def part_of_frame(self, frame: int, here: int) -> Part:
        """Show a current frame what it sees, given the slot where the current ones begin."""
        tokens, end = self.tokens, here + frame + 1
        first = max(end - self.window, self.start)
        queries = slice(frame * tokens, (frame + 1) * tokens)
        return Part(queries, keys=slice(first * tokens, end * tokens))

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.buffer[layer, 0], self.buffer[layer, 1]  # (B, h, slots L, d) each
        keys[:, :, self.written], values[:, :, self.written] = k, v
        return keys, values

    def advance(self, frames: int) -> None:
        self.position += frames
        self.kept += frames
        surplus = max(self.kept - (self.window - 1), 0)
        self.kept -= surplus
        self.start += surplus
        if self.start > self.window - 1:
            first, size = self.start * self.tokens, self.kept * self.tokens
            self.buffer[..., :size, :] = self.buffer[..., first : first + size, :].clone()
            self.start = 0


class StaticCache(KVCache):
    """The same cache in a ring: frame f lives in slot f modulo the number of slots.

    Where the next frame goes is a tensor, and who sees whom follows from it, so every iteration
    is the same computation on the same memory. Slots that hold no frame yet, or one that has left
    the window, are masked.
    """

    def reset(self) -> None:
        self.position = torch.zeros((), dtype=torch.int64, device=self.device)

    def count_slots(self) -> int:
        return self.window - 1 + self.frames

    def prepare(self, frames: int) -> None:
        assert frames <= self.frames, "more frames than the cache was made for"
        query = self.position + torch.arange(frames, device=self.device)
        slot = torch.arange(self.slots, device=self.device)
        last = self.position + frames - 1
        key = last - (last - slot) % self.slots  # the latest frame that goes to the slot
        token = torch.arange(self.tokens, device=self.device)
        self.places = ((query % self.slots)[:, None] * self.tokens + token).flatten()  # (F L,)
        key = torch.where(key < 0, last + 1, key)  # nobody sees what comes after the last
        mask = frame_mask(query, key, tokens=self.tokens, window=self.window)
        mask = additive(mask, dtype=self.buffer.dtype)
        self.parts = [Part(slice(None), slice(None), mask)]

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.buffer[layer]
        keys.index_copy_(2, self.places, k)
        values.index_copy_(2, self.places, v)
        return keys, values

    def advance(self, frames: int) -> None:
        self.position += frames  # in place: graphs read it
