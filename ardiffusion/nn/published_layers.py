"""Layers of the published transformer: its blocks, and the context tokens before the frames.

In a block the residual starts behind a norm without parameters,

    x <- LN(x);  x <- x + gate f(x (1 + scale) + shift),   f = attention, then MLP.

Shift, scale and gate come from each frame's timestep and act on its tokens; context tokens are
neither modulated nor gated.
"""

import torch
import torch.nn.functional as F
from einops import pack, rearrange, repeat, unpack
from torch import Tensor, nn

from ardiffusion.nn.attention import attend
from ardiffusion.nn.rotary import Phases, rotate


def normalise(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class PublishedAttention(nn.Module):
    """Attention over context and frames together; `qk_norm` normalises queries and keys."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None, phases: Phases | None) -> Tensor:
        """Let tokens (B, N, D) attend, with a mask (N, N) and phases (N, d) if there are any."""
        q, k, v = rearrange(
            self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads
        )  # (B, h, N, d)
        q, k = self.q_norm(q), self.k_norm(k)
        if phases is not None:
            q, k = rotate(q, *phases), rotate(k, *phases)
        x = attend(q.to(v.dtype), k.to(v.dtype), v, mask=mask)
        return self.out(rearrange(x, "b h n d -> b n (h d)"))


class PublishedBlock(nn.Module):
    """Attention and MLP, modulated per frame."""

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

        `self.modulation` made the modulation (B, F, 6 D); mask and phases are those of attention.
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


class Context(nn.Module):
    """The context of every class, or the one that all samples share where there are no classes.

    Without classes, "no condition" is a context of zeros. With classes it is that of class 0: the
    published table has a row more than there are classes, but its last one is never used.
    """

    def __init__(self, classes: int, context: int, width: int) -> None:
        super().__init__()
        rows = (classes + 1,) if classes > 0 else ()
        self.table = nn.Parameter(torch.empty(*rows, context, width))
        nn.init.normal_(self.table, std=0.1)

    def forward(self, batch: int, label: Tensor | None, null: Tensor | None) -> Tensor:
        """Return context tokens (B, N, width), given labels and who has no condition, both (B,).

        Labels may be negative for "no condition".
        """
        if self.table.ndim == 2:
            table = repeat(self.table, "n c -> b n c", b=batch)
            return table if null is None else table.masked_fill(null[:, None, None], 0.0)
        if label is None:
            return repeat(self.table[0], "n c -> b n c", b=batch)
        row = label.clamp(min=0)
        return self.table[row if null is None else row.masked_fill(null, 0)]
