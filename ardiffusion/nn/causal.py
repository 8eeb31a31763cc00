"""Blocks of ARDiT: frame-causal attention and adaLN-zero modulation per frame (section 3.2)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ardiffusion.nn.attention import attend
from ardiffusion.nn.cache import AttentionContext
from ardiffusion.nn.rotary import Phases, rotate


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale the normalised tokens x (B, F, L, D) per frame, factors (B, F, 1, D)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class CausalAttention(nn.Module):
    """Frame-causal multi-head attention with RMS-normalised and rotated queries and keys."""

    eps = 1e-6

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.RMSNorm(width // heads, eps=self.eps)
        self.k_norm = nn.RMSNorm(width // heads, eps=self.eps)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, phases: Phases, context: AttentionContext, layer: int) -> Tensor:
        """Let tokens (B, F, L, D) attend, with phases (F L, d), as a layer of the context."""
        qkv = rearrange(
            self.qkv(x), "b f l (three h d) -> three b h (f l) d", three=3, h=self.heads
        )  # (3, B, h, F L, d)
        q, k = rotate(self.normalise(qkv[:2]), *phases).to(qkv.dtype)
        keys, values = context.write(layer, k=k, v=qkv[2])
        outs = [
            attend(q[:, :, queries], keys[:, :, seen], values[:, :, seen], mask=mask)
            for queries, seen, mask in context.parts
        ]
        out = outs[0] if len(outs) == 1 else torch.cat(outs, dim=2)  # (B, h, F L, d)
        return self.out(rearrange(out, "b h (f l) d -> b f l (h d)", f=x.shape[1]))

    def normalise(self, qk: Tensor) -> Tensor:
        """Apply both RMS norms to queries and keys (2, B, h, N, d), in float32 or more."""
        qk = qk.to(torch.promote_types(qk.dtype, torch.float32))
        weight = torch.stack([self.q_norm.weight, self.k_norm.weight])  # (2, d)
        scale = (qk.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt()  # (2, B, h, N, 1)
        return qk * scale * rearrange(weight, "two d -> two 1 1 1 d")


class DiTBlock(nn.Module):
    """Transformer block with adaLN-zero modulation, one per frame."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = CausalAttention(width=width, heads=heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(
        self, x: Tensor, modulation: Tensor, phases: Phases, context: AttentionContext, layer: int
    ) -> Tensor:
        """Update tokens (B, F, L, D) given what `self.modulation` made, shape (B, F, 6 D)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = rearrange(
            modulation, "b f (six d) -> six b f 1 d", six=6
        )  # (B, F, 1, D)
        h = modulate(x, shift=shift_a, scale=scale_a)
        x = torch.addcmul(x, gate_a, self.attention(h, phases, context=context, layer=layer))
        return torch.addcmul(x, gate_m, self.mlp(modulate(x, shift=shift_m, scale=scale_m)))
