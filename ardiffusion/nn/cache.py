"""Which frames attend to which, and where their keys and values are.

`FullSequence` computes all frames together, as in training. In a cache a frame's keys and values
are written in every iteration while it is denoised and kept once it is clean: `write` puts those
of the current frames behind the kept ones, `advance` keeps the first of them. Frames that have
left the attention window are dropped, so memory does not grow.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn

from ardiffusion.nn.attention import additive, causal_mask, frame_mask
from ardiffusion.nn.conditions import ConditionTable
from ardiffusion.nn.rotary import rotary_phases, rotate


class Part(NamedTuple):
    """Queries that attend together: to which keys, and which of these each of them may see."""

    queries: slice
    keys: slice
    mask: Tensor | None = None


def autocast_dtype(weight: Tensor, device: torch.device) -> torch.dtype:
    """Return the type of what is computed with a weight, under autocast too."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return weight.dtype


class AttentionContext(ABC):
    """What the current frames attend to."""

    position: int | Tensor = 0  # absolute index of the first of the current frames
    conditions: ConditionTable | None = None  # modulations of a run, if they are kept
    blocks: nn.ModuleList | None = None  # the network's, packed for a run
    parts: list[Part]  # how the current frames attend, in the order of their tokens

    @abstractmethod
    def prepare(self, frames: int) -> None:
        """Make the parts for `frames` frames, which all layers are about to write."""

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take the current frames' keys and values (B, h, F L, d); return all, as parts count."""
        return k, v

    def ask(self, q: Tensor) -> Tensor:
        """Return the queries that fit the keys of `write`, given rotated ones (B, h, F L, d)."""
        return q

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
    """Sliding-window cache of keys and values, which shows exactly the frames that count.

    At most `frames` are written at once; `size` counts layers, sequences B, heads h and the
    channels d of a head.
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
        self.position = torch.zeros((), dtype=torch.int64, device=device)
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
    is the same computation on the same memory, as CUDA graphs need. Slots that hold no frame yet,
    or one that has left the window, are masked.
    """

    sink = 0  # first frames that are never dropped, each in a slot of its own

    def count_slots(self) -> int:
        return self.window - 1 + self.frames

    def prepare(self, frames: int) -> None:
        assert frames <= self.frames, "more frames than the cache was made for"
        query = self.position + torch.arange(frames, device=self.device)
        slot = torch.arange(self.slots, device=self.device)
        last, sink = self.position + frames - 1, self.sink
        ring = self.slots - sink
        key = last - (last - slot + sink) % ring  # the latest frame that goes to the slot
        key = torch.where(key < sink, last + 1, key)  # nobody sees what comes after the last
        key = torch.where(slot < sink, slot, key)
        token = torch.arange(self.tokens, device=self.device)
        place = torch.where(query < sink, query, sink + query % ring)
        self.places = (place[:, None] * self.tokens + token).flatten()  # (F L,)
        mask = frame_mask(query, key, tokens=self.tokens, window=self.window, sink=sink)
        mask = additive(mask, dtype=self.buffer.dtype)
        self.parts = [Part(slice(None), slice(None), mask)]

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.buffer[layer]
        keys.index_copy_(2, self.places, k)
        values.index_copy_(2, self.places, v)
        return keys, values

    def advance(self, frames: int) -> None:
        self.position += frames  # in place: graphs read it


class SinkCache(StaticCache):
    """A ring that never drops the first `sink` frames: a frame sees them and the latest ones.

    It attends to `window` frames in all, as without a sink. The first ones get no further away
    than they are from frame `window` - 1, so that no distance is new to a trained network, however
    long the video. Queries therefore have other phases where they meet these keys: both kinds lie
    beside each other, in twice the channels, and a key is zero where the other kind is.

    References:
        StreamingLLM (Xiao et al., ICLR 2024), which also counts distances within the cache.
    """

    def __init__(self, sink: int, **sizes: Any) -> None:  # noqa: ANN401
        self.sink = sink
        super().__init__(**sizes)

    def prepare(self, frames: int) -> None:
        super().prepare(frames)
        query = self.position + torch.arange(frames, device=self.device)
        nearer = (query - (self.window - 1)).clamp(min=0)  # (F,)
        width, dtype = self.buffer.shape[-1], torch.promote_types(self.buffer.dtype, torch.float32)
        phases = rotary_phases(-nearer, width=width, dtype=dtype)
        self.phases = [repeat(x, "f d -> (f l) d", l=self.tokens) for x in phases]

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = super().write(layer, k=k, v=v)
        first, latest = keys.tensor_split([self.sink * self.tokens], dim=2)
        width = keys.shape[-1]
        return torch.cat([F.pad(first, (0, width)), F.pad(latest, (width, 0))], dim=2), values

    def ask(self, q: Tensor) -> Tensor:
        near = rotate(q, *self.phases).to(q.dtype)
        return 2**0.5 * torch.cat([near, q], dim=-1)  # attention divides by the root of the width


def cache_type(static: bool, sink: int) -> Callable[..., KVCache]:
    return partial(SinkCache, sink) if sink else StaticCache if static else KVCache
