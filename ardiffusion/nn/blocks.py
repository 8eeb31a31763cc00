"""The transformer blocks of the AR-VAE: within a frame, and between frames.

`Block` is the pre-norm transformer block x + attention(norm x), x + mlp(norm x). `TemporalPair`
stands before such a block in a temporal decoder: every frame looks at itself and at earlier ones.
A frame sees `window` frames, itself included, so the keys and values of `window` - 1 are kept,
however long the video. The order of keys does not matter to attention, which knows no positions.
"""

from abc import ABC, abstractmethod

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from ardiffusion.nn.attention import Attention, attend, causal_mask
from ardiffusion.nn.linear import linear


class Block(nn.Module):
    """Pre-norm transformer block: full self-attention, then an MLP with exact GELU.

    The more blocks stand in a row, its `depth`, the less each adds at first.
    """

    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        gain = (2 * depth) ** -0.5
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width=width, heads=heads, gain=gain)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            linear(width, 4 * width), nn.GELU(), linear(4 * width, width, gain=gain)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens (N, tokens, D)."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y)
        return x + self.mlp(self.norm2(x))


class FrameCache(ABC):
    """What an attention knows of earlier frames; a frame sees `window`, itself included."""

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


PairCache = tuple[FrameCache, FrameCache]  # of fine and coarse attention


class FineTemporal(nn.Module):
    """Attention of each patch to the same patch of its own and earlier frames."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width=width, heads=heads, gain=0.0)

    def forward(self, patches: Tensor, mask: Tensor | None, cache: FrameCache) -> Tensor:
        """Let patches (B, F, P, D) see those of earlier frames; the mask is (F, kept + F)."""
        x = rearrange(self.norm(patches), "b f p d -> (b p) f d").contiguous()  # see linear.py
        q, k, v = self.attention.project(x, x, x)  # (B P, h, F, d)
        k, v = cache.update(k, v)  # (B P, h, kept + F, d)
        x = self.attention.merge(attend(q, k, v, mask=mask))  # (B P, F, D)
        return patches + rearrange(x, "(b p) f d -> b f p d", p=patches.shape[2])


class CoarseTemporal(nn.Module):
    """Attention of all tokens of a frame to the latent tokens of its own and earlier frames."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_q = nn.LayerNorm(width)
        self.norm_k = nn.LayerNorm(width)
        self.norm_v = nn.LayerNorm(width)
        self.attention = Attention(width=width, heads=heads, gain=0.0)

    def forward(
        self, tokens: Tensor, latents: Tensor, mask: Tensor | None, cache: FrameCache
    ) -> Tensor:
        """Let tokens (B, F, N, D) see latents (B, F, L, D); the mask is (F, kept + F)."""
        count, frames = tokens.shape[2], tokens.shape[1]
        q = rearrange(self.norm_q(tokens), "b f n d -> b (f n) d")
        k, v = (
            rearrange(norm(latents), "b f l d -> b (f l) d") for norm in (self.norm_k, self.norm_v)
        )
        q, k, v = self.attention.project(q, k, v)  # (B, h, F N, d), (B, h, F L, d) twice
        k, v = (rearrange(x, "b h (f l) d -> b h f l d", f=frames) for x in (k, v))
        k, v = (rearrange(x, "b h f l d -> b h (f l) d") for x in cache.update(k, v))
        if mask is not None:
            mask = repeat(mask, "q k -> (q n) (k l)", n=count, l=latents.shape[2])
        x = self.attention.merge(attend(q, k, v, mask=mask))  # (B, F N, D)
        return tokens + rearrange(x, "b (f n) d -> b f n d", f=frames)


class TemporalPair(nn.Module):
    """Fine, then coarse temporal attention; the class token passes by. It starts as the identity.

    The latent tokens come last in the sequence; a frame sees `window` frames, itself included.
    """

    def __init__(self, width: int, heads: int, tokens: int, window: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.window = window
        self.fine = FineTemporal(width=width, heads=heads)
        self.coarse = CoarseTemporal(width=width, heads=heads)

    def make_cache(self) -> PairCache:
        """Make what a new video begins with, for gradients if they are enabled."""
        kind = GrowingCache if torch.is_grad_enabled() else RingCache
        return kind(self.window), kind(self.window)

    def forward(self, x: Tensor, cache: PairCache) -> Tensor:
        """Mix [class, patches, latents] (B, F, 1 + P + L, D) over time, and update the cache."""
        sizes, frames = [1, x.shape[2] - 1 - self.tokens, self.tokens], x.shape[1]
        head, patches, latents = x.split(sizes, dim=2)
        keys = cache[0].frames + frames
        mask = causal_mask(frames, keys, tokens=1, window=self.window, device=x.device)
        patches = self.fine(patches, mask=mask, cache=cache[0])
        tokens = torch.cat([patches, latents], dim=2)  # (B, F, P + L, D)
        tokens = self.coarse(tokens, latents=latents, mask=mask, cache=cache[1])
        return torch.cat([head, tokens], dim=2)  # (B, F, 1 + P + L, D)
