"""Scaled dot-product attention, softmax(q k^T / sqrt(d)) v, its masks, and a multi-head module.

A mask lets frames see themselves and at most `window - 1` earlier ones. The module takes queries,
keys and values separately, so that it serves self- and cross-attention.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from ardiffusion.nn.linear import linear

SHARPNESS = 1.5  # of queries and keys at first; blander attention takes much longer to train


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend from queries (B, h, N, d) to keys and values (B, h, M, d); return (B, h, N, d).

    The mask says which query may see which key, bool, broadcastable to (B, h, N, M), or is what
    `additive` made of that; `None` is all. Every query must see at least one key.
    """
    # Asked of v: under autocast q and k may come in float32. The fused kernel takes
    # 2-6 times as long as two products for bfloat16 on a CPU, most of all in the backward pass.
    if v.device.type == "cpu" and v.dtype == torch.bfloat16:
        return attend_by_products(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attend_by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Do what `attend` does by two matrix products, holding all scores in memory."""
    scale, k = q.shape[-1] ** -0.5, k.contiguous()  # a copy costs less than products with gaps
    if mask is None:
        return ((q * scale) @ k.mT).softmax(dim=-1) @ v  # (B, h, N, d)
    bias = additive(mask, q.dtype) if mask.dtype == torch.bool else mask
    bias = bias.expand(*q.shape[:3], k.shape[2]).flatten(0, 1)
    scores = torch.baddbmm(bias, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=scale)  # (B h, N, M)
    return scores.unflatten(0, q.shape[:2]).softmax(dim=-1) @ v  # (B, h, N, d)


def causal_mask(
    queries: int, keys: int, tokens: int, window: int, device: torch.device
) -> Tensor | None:
    """Say which token sees which: its own frame and at most `window - 1` earlier ones.

    The frames that ask, `queries`, are the last of the `keys` frames that are asked. True is where
    attention is allowed, shape (queries L, keys L); `None` if everything is.
    """
    if queries == 1 and keys <= window:
        return None
    key = torch.arange(keys, device=device)
    return frame_mask(key[keys - queries :], key, tokens=tokens, window=window)


def frame_mask(query: Tensor, key: Tensor, tokens: int, window: int, sink: int = 0) -> Tensor:
    """Do as `causal_mask` for frames of any indices, shapes (queries,) and (keys,).

    If there is a sink, the first `sink` of a frame's `window` frames are the first of the video.
    """
    distance = query[:, None] - key[None, :]  # (queries, keys)
    mask = (distance >= 0) & ((distance < window - sink) | (key < sink))
    return repeat(mask, "q k -> (q l) (k m)", l=tokens, m=tokens)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a mask into what is added to the scores: 0 where it is true, else -inf."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))


class Attention(nn.Module):
    """Multi-head attention with biases and one packed projection for queries, keys and values.

    The outputs are as large as `gain` says at first.
    """

    def __init__(self, width: int, heads: int, gain: float = 1.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}; change either.")
        self.heads = heads
        self.qkv = linear(width, 3 * width)
        self.out = linear(width, width, gain=gain)
        nn.init.normal_(self.qkv.weight[: 2 * width], std=SHARPNESS * width**-0.5)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend, given what queries (B, N, D), keys and values (B, M, D) are made of."""
        return self.merge(attend(*self.project(q, k, v), mask=mask))

    def project(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make the queries, keys and values of every head (B, h, N, d)."""
        if q is k and k is v:
            q, k, v = self.qkv(q).chunk(3, dim=-1)
        else:
            weights, biases = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
            q, k, v = (F.linear(*a) for a in zip((q, k, v), weights, biases, strict=True))
        pattern = "b n (h d) -> b h n d"
        q, k, v = (rearrange(x, pattern, h=self.heads) for x in (q, k, v))  # (B, h, N, d)
        return q, k, v

    def merge(self, heads: Tensor) -> Tensor:
        """Mix what the heads found (B, h, N, d) into the outputs (B, N, D)."""
        return self.out(rearrange(heads, "b h n d -> b n (h d)"))  # (B, N, D)
