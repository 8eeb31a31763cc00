"""Block of the published transformer: the residual starts behind a norm without parameters.

    x <- LN(x);  x <- x + gate f(x (1 + scale) + shift),   f = attention, then MLP.

Shift, scale and gate come from each frame's timestep and act on its tokens; context tokens are
neither modulated nor gated.
"""

import torch.nn.functional as F
from einops import pack, rearrange, unpack
from torch import Tensor, nn

from ardiffusion.nn.attention import attend
from ardiffusion.nn.rotary import Phases, rotate


def normalise(x: Tensor) -> Tensor:
    """Normalise tokens (..., D) to mean 0 and variance 1."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class PublishedAttention(nn.Module):
    """Attention over context and frames together.

    Args:
        width: Number of channels D.
        heads: Number of heads; must divide `width`.
        qk_norm: Whether queries and keys are normalised.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None, phases: Phases | None) -> Tensor:
        """Let tokens (B, N, D) attend, given a mask (N, N) or None and phases (N, d) or None."""
        q, k, v = rearrange(
            self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads
        )  # (B, h, N, d)
        q, k = self.q_norm(q), self.k_norm(k)
        if phases is not None:
            q, k = rotate(q, *phases), rotate(k, *phases)
        x = attend(q.to(v.dtype), k.to(v.dtype), v, mask=mask)
        return self.out(rearrange(x, "b h n d -> b n (h d)"))


class PublishedBlock(nn.Module):
    """Attention and MLP, modulated per frame.

    Args:
        width: Number of channels D.
        heads: Number of attention heads.
        qk_norm: Whether queries and keys are normalised.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = PublishedAttention(width=width, heads=heads, qk_norm=qk_norm)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(
        self,
        context: Tensor,
        video: Tensor,
        modulation: Tensor,
        mask: Tensor | None,
        phases: Phases | None,
    ) -> tuple[Tensor, Tensor]:
        """Update the tokens of the context (B, N, D) and of the frames (B, F, L, D).

        Args:
            context: Context tokens.
            video: Tokens of the frames.
            modulation: What `self.modulation` made of the frames' timesteps, shape (B, F, 6 D).
            mask: Who sees whom, shape (N + F L, N + F L), or None for everyone.
            phases: Cosines and sines of the tokens' places, shape (N + F L, d) each.
        """
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = rearrange(
            modulation, "b f (six d) -> six b f 1 d", six=6
        )  # (B, F, 1, D)
        context, video = normalise(context), normalise(video)
        x, sizes = pack([context, video * (1 + scale_a) + shift_a], "b * d")  # (B, N + F L, D)
        c, v = unpack(self.attention(x, mask=mask, phases=phases), sizes, "b * d")
        context, video = normalise(context + c), normalise(video + gate_a * v)
        x, sizes = pack([context, video * (1 + scale_m) + shift_m], "b * d")  # (B, N + F L, D)
        c, v = unpack(self.mlp(x), sizes, "b * d")
        return context + c, video + gate_m * v
