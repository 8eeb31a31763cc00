"""PublishedDiT: the transformer of the published AR-Diffusion weights, quirks included.

It differs from ARDiT (dit.py) in its blocks (published_layers.py), in context tokens that stand
before the frames, which by default see every frame and are seen by every frame, so that the
network is not causal from end to end, and in positions that belong to places in the window.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from ardiffusion.nn.conditions import ConditionTable, TimestepEmbedding
from ardiffusion.nn.denoising import DenoisingNetwork
from ardiffusion.nn.linear import begin_as_dit
from ardiffusion.nn.packed import packed
from ardiffusion.nn.published_layers import Context, PublishedBlock, normalise
from ardiffusion.nn.rotary import Phases, rotary_phases
from ardiffusion.nn.sizes import LARGEST, check_heads, check_range


def sincos_table(positions: int, width: int) -> Tensor:
    """Return [sin(p w_i) | cos(p w_i)], w_i = 10000^(-2 i / D), shape (positions, D)."""
    cos, sin = rotary_phases(torch.arange(positions), width=width)
    return torch.cat([sin[:, 1::2], cos[:, ::2]], dim=1)


@dataclass(frozen=True)
class ConditionCache:
    """What the network keeps during a run: the packed blocks, modulations of its timesteps."""

    conditions: ConditionTable
    blocks: nn.ModuleList

    def advance(self, frames: int) -> None:
        """Keep nothing of the frames, whose keys and values change with later ones."""


class PublishedDiT(DenoisingNetwork):
    """The published diffusion transformer; take it for its weights, ARDiT for your own models.

    References:
        AR-Diffusion (Sun et al., CVPR 2025) and the weights its authors published.

    Args:
        width: Number of channels D.
        depth: Number of transformer blocks.
        heads: Number of attention heads; width / heads must be even.
        tokens: Tokens per frame L.
        channels: Numbers per token C.
        classes: Number of classes; 0 for a model without class condition.
        frames: Frames of the window.
        causal: Whether a frame sees no later frame.
        open_context: Whether context tokens see the frames; through them frames then see later
            ones.
        rotary: Whether positions rotate queries and keys instead of being added to the tokens.
        qk_norm: Whether queries and keys are normalised.
        context: Number of context tokens.
        context_width: Numbers per context token.
    """

    strictly_causal = False
    conditional = True
    position: Tensor | None

    def __init__(
        self,
        width: int = 1152,
        depth: int = 28,
        heads: int = 16,
        tokens: int = 32,
        channels: int = 4,
        classes: int = 0,
        frames: int = 16,
        causal: bool = True,
        open_context: bool = True,
        rotary: bool = False,
        qk_norm: bool = False,
        context: int = 77,
        context_width: int = 768,
    ) -> None:
        super().__init__()
        sizes = {"width": width, "depth": depth, "heads": heads, "tokens": tokens}
        sizes |= {"frames": frames, "context": context, "context_width": context_width}
        check_range("{}", 1, LARGEST, **sizes, channels=channels)
        check_heads(width, heads)
        self.width, self.depth, self.heads = width, depth, heads
        self.tokens, self.channels, self.classes = tokens, channels, classes
        self.frames, self.causal, self.open_context = frames, causal, open_context
        self.rotary, self.qk_norm = rotary, qk_norm
        self.context, self.context_width = context, context_width
        self.condition = Context(classes=classes, context=context, width=context_width)
        self.embed_context = nn.Linear(context_width, width)
        self.embed = nn.Linear(channels, width)
        self.time = TimestepEmbedding(width)
        blocks = [PublishedBlock(width=width, heads=heads, qk_norm=qk_norm) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.out = nn.Linear(width, channels)
        table = None if rotary else sincos_table(frames * tokens, width=width)
        self.register_buffer("position", table)
        begin_as_dit(
            self,
            small=(self.time.hidden, self.time.out),
            zero=(*(block.modulation for block in blocks), self.out),
        )

    @property
    def window(self) -> int:
        return self.frames

    @property
    def class_table(self) -> Tensor | None:
        return self.condition.table if self.classes else None

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        null: Tensor | None = None,
        cache: ConditionCache | None = None,
    ) -> Tensor:
        """Predict the target (B, F, L, C) of at most `frames` frames, as `ARDiT` does."""
        frames = x_t.shape[1]
        assert frames <= self.frames, "more frames than the network has positions for"
        modulations = self.modulations(t) if cache is None else cache.conditions(t)
        context = self.condition(len(x_t), label=label, null=null).contiguous()
        context = self.embed_context(context)  # (B, N, D)
        video = self.embed(x_t.to(self.embed.weight.dtype).contiguous())  # (B, F, L, D)
        if self.position is not None:
            video = video + rearrange(self.position, "(f l) d -> f l d", l=self.tokens)[:frames]
        mask, phases = self.mask(frames, x_t.device), self.phases(frames, x_t.device)
        blocks = self.blocks if cache is None else cache.blocks
        for block, modulation in zip(blocks, modulations, strict=True):
            context, video = block(context, video, modulation, mask=mask, phases=phases)
        return self.out(normalise(video))  # (B, F, L, C)

    def modulations(self, t: Tensor, label: Tensor | None = None) -> list[Tensor]:
        """Return the modulation (B, F, 6 D) of every block for timesteps (B, F)."""
        condition = F.silu(self.time(t))  # (B, F, D)
        return [block.modulation(condition) for block in self.blocks]  # pyright: ignore[reportCallIssue]

    def mask(self, frames: int, device: torch.device) -> Tensor | None:
        """Say which token sees which, shape (N + F L, N + F L); None if everyone sees everyone.

        A frame sees no later one if the network is causal; the context sees frames if it is open.
        """
        if self.open_context and not self.causal:
            return None
        index = repeat(torch.arange(frames, device=device), "f -> (f l)", l=self.tokens)
        index = F.pad(index, (self.context, 0), value=-1)  # the context counts as frame -1
        query, key = index[:, None], index[None, :]
        mask = (key <= query) | (not self.causal)
        return torch.where(query < 0, (key < 0) | self.open_context, mask)

    def phases(self, frames: int, device: torch.device) -> Phases | None:
        """Return cosines and sines of every token's place, (N + F L, d), if places rotate."""
        if not self.rotary:
            return None
        place = torch.arange(self.context + frames * self.tokens, device=device)
        width, dtype = self.width // self.heads, self.out.weight.dtype
        return rotary_phases(place, width=width, dtype=dtype)

    def make_cache(
        self, *, device: torch.device, timesteps: Tensor | None = None, **_: object
    ) -> ConditionCache:
        """Return what stays the same during a run that asks for these timesteps alone, (K,)."""
        assert timesteps is not None, "without timesteps there is nothing to keep"
        conditions = ConditionTable(self.modulations, timesteps.to(device))
        return ConditionCache(conditions, blocks=packed(self.blocks))
