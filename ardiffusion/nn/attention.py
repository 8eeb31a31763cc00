"""Scaled dot-product attention, softmax(q k^T / sqrt(d)) v, and the multi-head module around it.

The module takes queries, keys and values separately, so that it serves self- and cross-attention.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ardiffusion.nn.linear import linear
from ardiffusion.nn.masks import additive

SHARPNESS = 1.5  # of queries and keys at first; blander attention takes much longer to train


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend from each query to the keys that the mask allows.

    Args:
        q: The queries (B, h, N, d).
        k: The keys (B, h, M, d).
        v: The values (B, h, M, d).
        mask: Which query may see which key, bool, broadcastable to (B, h, N, M), or what
            `additive` made of it; `None` is all. Every query must see at least one key.

    Returns:
        The attended values (B, h, N, d).
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


class Attention(nn.Module):
    """Multi-head attention with biases and one packed projection for queries, keys and values.

    Args:
        width: The number of channels of inputs and outputs.
        heads: The number of heads; must divide `width`.
        gain: How large the outputs are at first.
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
