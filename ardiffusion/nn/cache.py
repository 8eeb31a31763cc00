"""Keys and values of the frames that are done, preallocated for all layers.

A frame's keys and values are written in every iteration while it is denoised and kept once it is
clean: `write` puts those of the current frames behind the kept ones, `advance` keeps the first of
them. Frames that have left the attention window are dropped, so memory does not grow.

`KVCache` hands out exactly the frames that count, so that nothing is computed in vain.
`RingCache` hands out all its slots and a mask in tensors whose shapes and addresses never change,
so that one CUDA graph or one compiled function serves every iteration.
"""

import torch
from einops import repeat
from torch import Tensor

from ardiffusion.nn.attention import additive, attend
from ardiffusion.nn.conditions import ConditionTable


def causal_mask(
    queries: int, keys: int, tokens: int, window: int, device: torch.device
) -> Tensor | None:
    """Say which token sees which: its own frame and at most `window - 1` earlier ones.

    Args:
        queries: Number of frames that ask; they are the last of the frames that are asked.
        keys: Number of frames that are asked.
        tokens: Tokens per frame L.
        window: Frames a frame sees, itself included.
        device: Where the mask shall live.

    Returns:
        True where attention is allowed, shape (queries L, keys L); `None` if everything is.
    """
    if queries == 1 and keys <= window:
        return None
    key = torch.arange(keys, device=device)
    return frame_mask(key[keys - queries :], key, tokens=tokens, window=window)


def frame_mask(query: Tensor, key: Tensor, tokens: int, window: int) -> Tensor:
    """Do as `causal_mask` for frames of any indices, shapes (queries,) and (keys,)."""
    distance = query[:, None] - key[None, :]  # (queries, keys)
    mask = (distance >= 0) & (distance < window)
    return repeat(mask, "q k -> (q l) (k m)", l=tokens, m=tokens)


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
        # Frame by frame no key is looked at in vain; other devices want few large calls instead,
        # and so does bfloat16 on a CPU, where all scores of a layer are one product.
        self.by_frames = device.type == "cpu" and dtype != torch.bfloat16
        self.start = 0  # slot of the first kept frame
        self.kept = 0  # frames kept for later ones to attend to
        self.position: int | Tensor = 0  # absolute index of the frame that is written next

    def slots(self) -> int:
        """Return how many frames the buffer holds."""
        # Twice the kept frames: it then moves to its front once per window, not per frame.
        return 2 * (self.window - 1) + self.frames

    def begin(self, frames: int) -> Tensor | None:
        """Make ready for writing `frames` frames.

        Returns:
            What to add to the scores, 0 or -inf, shape (F L, keys L), so that a token sees what
            it may see; None where `attend` needs no mask.
        """
        if self.by_frames:
            return None
        mask = causal_mask(
            queries=frames,
            keys=self.kept + frames,
            tokens=self.tokens,
            window=self.window,
            device=self.device,
        )
        return None if mask is None else additive(mask, dtype=self.buffer.dtype)

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

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Write the current frames and let them attend to all that they see.

        Args:
            layer: Index of the layer.
            q: Queries of the current frames, shape (B, h, F L, d).
            k: Keys of the current frames, shape (B, h, F L, d).
            v: Values of the current frames, shape (B, h, F L, d).
            mask: What `begin` returned.

        Returns:
            What was attended to, shape (B, h, F L, d).
        """
        keys, values = self.write(layer, k=k, v=v)
        if not self.by_frames:
            return attend(q, keys, values, mask=mask)
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

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # pyright: ignore[reportArgumentType]
        self.position = torch.zeros((), dtype=torch.int64, device=self.device)
        self.rows = torch.empty(0)  # where the current frames' tokens go

    def slots(self) -> int:
        return self.window - 1 + self.frames

    def begin(self, frames: int) -> Tensor:
        query = self.position + torch.arange(frames, device=self.device)
        slot = torch.arange(self.capacity, device=self.device)
        last = self.position + frames - 1
        key = last - (last - slot) % self.capacity  # the latest frame that goes to the slot
        token = torch.arange(self.tokens, device=self.device)
        self.rows = ((query % self.capacity)[:, None] * self.tokens + token).flatten()
        key = torch.where(key < 0, last + 1, key)  # nobody sees what comes after the last
        mask = frame_mask(query, key, tokens=self.tokens, window=self.window)
        return additive(mask, dtype=self.buffer.dtype)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        keys, values = self.write(layer, k=k, v=v)
        return attend(q, keys, values, mask=mask)

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.buffer[layer]
        keys.index_copy_(2, self.rows, k)
        values.index_copy_(2, self.rows, v)
        return keys, values

    def advance(self, frames: int) -> None:
        self.position += frames  # in place: graphs read it
