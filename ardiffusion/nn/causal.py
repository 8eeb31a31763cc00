"""Blocks of ARDiT: frame-causal attention and adaLN-zero modulation per frame (section 3.2)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ardiffusion.nn.cache import Memory
from ardiffusion.nn.rotary import rotate


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale the normalised tokens x (B, F, L, D) per frame, factors (B, F, 1, D)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class CausalAttention(nn.Module):
    """Frame-causal multi-head attention with RMS-normalised and rotated queries and keys.

    Args:
        width: Number of channels D.
        heads: Number of heads; must divide `width`.
    """

    eps = 1e-6

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.RMSNorm(width // heads, eps=self.eps)
        self.k_norm = nn.RMSNorm(width // heads, eps=self.eps)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        memory: Memory,
        layer: int,
    ) -> Tensor:
        """Let tokens attend.

        Args:
            x: Tokens, shape (B, F, L, D).
            cos: Cosines of the frames' angles, shape (F L, d).
            sin: Sines of the frames' angles, shape (F L, d).
            memory: Keys and values of earlier frames, and who sees whom.
            layer: Index of this layer in it.

        Returns:
            Tokens, shape (B, F, L, D).
        """
        qkv = rearrange(
            self.qkv(x), "b f l (three h d) -> three b h (f l) d", three=3, h=self.heads
        )  # (3, B, h, F L, d)
        q, k = rotate(self.normalise(qkv[:2]), cos=cos, sin=sin).to(qkv.dtype)
        out = memory.attend(layer, q=q, k=k, v=qkv[2])  # (B, h, F L, d)
        return self.out(rearrange(out, "b h (f l) d -> b f l (h d)", f=x.shape[1]))

    def normalise(self, qk: Tensor) -> Tensor:
        """Apply both RMS norms to queries and keys (2, B, h, N, d), in float32 or more."""
        qk = qk.to(torch.promote_types(qk.dtype, torch.float32))
        weight = torch.stack([self.q_norm.weight, self.k_norm.weight])  # (2, d)
        scale = (qk.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt()  # (2, B, h, N, 1)
        return qk * scale * rearrange(weight, "two d -> two 1 1 1 d")


class DiTBlock(nn.Module):
    """Transformer block with adaLN-zero modulation, one per frame.

    Args:
        width: Number of channels D.
        heads: Number of attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = CausalAttention(width=width, heads=heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        cos: Tensor,
        sin: Tensor,
        memory: Memory,
        layer: int,
    ) -> Tensor:
        """Update tokens.

        Args:
            x: Tokens, shape (B, F, L, D).
            modulation: What `self.modulation` made of the frames' conditions, shape (B, F, 6 D).
            cos: Cosines of the frames' angles, shape (F L, d).
            sin: Sines of the frames' angles, shape (F L, d).
            memory: Keys and values of earlier frames, and who sees whom.
            layer: Index of this block in it.

        Returns:
            Tokens, shape (B, F, L, D).
        """
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = rearrange(
            modulation, "b f (six d) -> six b f 1 d", six=6
        )  # (B, F, 1, D)
        h = modulate(x, shift=shift_a, scale=scale_a)
        h = self.attention(h, cos=cos, sin=sin, memory=memory, layer=layer)
        x = torch.addcmul(x, gate_a, h)
        return torch.addcmul(x, gate_m, self.mlp(modulate(x, shift=shift_m, scale=scale_m)))
