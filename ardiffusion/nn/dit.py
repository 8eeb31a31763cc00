"""ARDiT: a diffusion transformer whose frames carry their own timesteps (paper section 3.2).

A token attends to all tokens of its own frame and of at most `window - 1` earlier frames. Nothing
else mixes frames, so frame f of the output does not depend on frames after f. Blocks are modulated
by adaLN-zero, per frame.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from ardiffusion.nn.attention import attend
from ardiffusion.nn.cache import AttentionContext, FullSequence, autocast_dtype, cache_type
from ardiffusion.nn.conditions import ConditionTable, LabelEmbedding, TimestepEmbedding
from ardiffusion.nn.denoising import DenoisingNetwork
from ardiffusion.nn.linear import begin_as_dit
from ardiffusion.nn.packed import packed
from ardiffusion.nn.rotary import Phases, rotary_phases, rotate
from ardiffusion.nn.sizes import LARGEST, check_heads, check_range

MAX_CONDITIONS = 1024  # pairs of timestep and class worth a table: 0.8 GB at the paper's size


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
        q, (keys, values) = context.ask(q), context.write(layer, k=k, v=qkv[2])
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


class ARDiT(DenoisingNetwork):
    """Frame-causal diffusion transformer over (frames, tokens) latents.

    References:
        AR-Diffusion (Sun et al., CVPR 2025); DiT (Peebles and Xie, ICCV 2023).

    Args:
        width: Number of channels D.
        depth: Number of transformer blocks.
        heads: Number of attention heads; width / heads must be even.
        tokens: Tokens per frame L, as the AR-VAE makes them.
        channels: Numbers per token C, as the AR-VAE makes them.
        classes: Number of classes; 0 for a model without class condition.
        window: Frames that a frame attends to, itself included.
    """

    strictly_causal = True

    def __init__(
        self,
        width: int = 1152,
        depth: int = 28,
        heads: int = 16,
        tokens: int = 32,
        channels: int = 4,
        classes: int = 0,
        window: int = 16,
    ) -> None:
        super().__init__()
        sizes = {"width": width, "depth": depth, "heads": heads, "tokens": tokens}
        check_range("{}", 1, LARGEST, **sizes, channels=channels, window=window)
        check_heads(width, heads)
        self.width, self.depth, self.heads = width, depth, heads
        self.tokens, self.channels, self.classes = tokens, channels, classes
        self.window = window
        self.embed = nn.Linear(channels, width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.time = TimestepEmbedding(width)
        self.label = LabelEmbedding(classes, width) if classes > 0 else None
        blocks = [DiTBlock(width=width, heads=heads) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, channels)
        begin_as_dit(
            self,
            small=(self.time.hidden, self.time.out),
            zero=(*(block.modulation for block in blocks), self.modulation, self.out),
        )

    @property
    def conditional(self) -> bool:
        return self.label is not None

    @property
    def class_table(self) -> Tensor | None:
        """One row for each class, and a last one for "no class"."""
        return None if self.label is None else self.label.table.weight

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        null: Tensor | None = None,
        cache: AttentionContext | None = None,
    ) -> Tensor:
        """Predict the target of every frame, shape (B, F, L, C).

        Args:
            x_t: Noisy latents, shape (B, F, L, C).
            t: Timestep of each frame, shape (B, F).
            label: Class indices, shape (B,); None or negative for "no class".
            null: Rows to be evaluated without their class, bool, shape (B,).
            cache: Keys and values of earlier frames; `x_t` then holds the frames that follow.
        """
        frames, device = x_t.shape[1], x_t.device
        context = self.together(device) if cache is None else cache
        context.prepare(frames)
        phases = self.phases(context.position, frames=frames, device=device)
        if context.conditions is None:
            *modulations, last = self.modulations(t, label=label, null=null)
        else:
            *modulations, last = context.conditions(t)
        x = self.embed(x_t.to(self.embed.weight.dtype).contiguous()) + self.position
        blocks = self.blocks if context.blocks is None else context.blocks
        for layer, (block, modulation) in enumerate(zip(blocks, modulations, strict=True)):
            x = block(x, modulation, phases, context=context, layer=layer)  # (B, F, L, D)
        shift, scale = rearrange(last, "b f (two d) -> two b f 1 d", two=2)
        return self.out(modulate(x, shift=shift, scale=scale))  # (B, F, L, C)

    def modulations(
        self, t: Tensor, label: Tensor | None, null: Tensor | None = None
    ) -> list[Tensor]:
        """Return the modulations of the blocks (B, F, 6 D) and of the last layer (B, F, 2 D)."""
        condition = self.time(t)  # (B, F, D)
        if self.label is not None:
            label = t.new_full((t.shape[0],), -1) if label is None else label
            condition = condition + self.label(label, null=null)[:, None]
        condition = F.silu(condition)
        blocks = [block.modulation(condition) for block in self.blocks]  # pyright: ignore[reportCallIssue]
        return [*blocks, self.modulation(condition)]

    def phases(self, position: int | Tensor, frames: int, device: torch.device) -> Phases:
        """Return cosines and sines of every token's frame, shape (F L, d)."""
        dtype = torch.promote_types(self.embed.weight.dtype, torch.float32)
        index = position + torch.arange(frames, device=device)
        cos, sin = rotary_phases(index, width=self.width // self.heads, dtype=dtype)
        pattern = "f d -> (f l) d"
        return repeat(cos, pattern, l=self.tokens), repeat(sin, pattern, l=self.tokens)

    def together(self, device: torch.device) -> AttentionContext:
        """Return the context of frames that are all computed together."""
        return FullSequence(tokens=self.tokens, window=self.window, device=device)

    def make_cache(
        self,
        batch: int,
        frames: int,
        device: torch.device,
        timesteps: Tensor | None = None,
        label: Tensor | None = None,
        null: Tensor | None = None,
        static: bool = False,
        sink: int = 0,
    ) -> AttentionContext:
        """Return an empty cache for one run of B sequences; `Denoiser` defines the arguments.

        Modulations of its timesteps are computed here, once, unless there are too many to keep.
        """
        context = self.storage(batch, frames=frames, device=device, static=static, sink=sink)
        context.blocks = packed(self.blocks)
        labels = 1 if label is None else len(label.unique()) + (null is not None)
        if timesteps is not None and labels * len(timesteps) <= MAX_CONDITIONS:
            timesteps = timesteps.to(device)
            context.conditions = ConditionTable(self.modulations, timesteps, label, null)
        return context

    def storage(
        self, batch: int, frames: int, device: torch.device, static: bool, sink: int
    ) -> AttentionContext:
        """Make a cache without conditions."""
        return cache_type(static, sink=sink)(
            size=(self.depth, batch, self.heads, self.width // self.heads),
            tokens=self.tokens,
            window=self.window,
            frames=frames,
            dtype=autocast_dtype(self.embed.weight, device),
            device=device,
        )
