"""ARDiT: a diffusion transformer whose frames carry their own timesteps (paper section 3.2).

A token attends to all tokens of its own frame and of at most `window - 1` earlier frames. Nothing
else mixes frames, so frame f of the output does not depend on frames after f.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from ardiffusion.nn.cache import KVCache, Memory, RingCache, Uncached
from ardiffusion.nn.causal import DiTBlock, modulate
from ardiffusion.nn.conditions import ConditionTable
from ardiffusion.nn.embedding import LabelEmbedding, TimestepEmbedding
from ardiffusion.nn.rotary import rotary_phases

MOST_CONDITIONS = 1024  # pairs of timestep and class worth a table: 0.8 GB at the paper's size


class ARDiT(nn.Module):
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
        if width % (2 * heads):
            raise ValueError(f"width {width} must be a multiple of twice the heads, {2 * heads}.")
        if window < 1:
            raise ValueError(f"window must be at least 1 frame, got {window}.")
        self.width, self.depth, self.heads = width, depth, heads
        self.tokens, self.channels, self.classes = tokens, channels, classes
        self.window = window
        self.embed = nn.Linear(channels, width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.time = TimestepEmbedding(width)
        self.label = LabelEmbedding(classes, width) if classes > 0 else None
        self.blocks = nn.ModuleList(DiTBlock(width=width, heads=heads) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, channels)
        self.reset_parameters()

    @property
    def conditional(self) -> bool:
        """Whether the network has a condition that guidance can strengthen."""
        return self.label is not None

    def reset_parameters(self) -> None:
        """Initialise as DiT does: every block starts as the identity, the output at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for layer in (self.time.hidden, self.time.out):
            nn.init.normal_(layer.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, DiTBlock):
                nn.init.zeros_(module.modulation.weight)
        for layer in (self.modulation, self.out):
            nn.init.zeros_(layer.weight)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        null: Tensor | None = None,
        cache: Memory | None = None,
    ) -> Tensor:
        """Predict the target of every frame.

        Args:
            x_t: Noisy latents, shape (B, F, L, C).
            t: Timestep of each frame, shape (B, F).
            label: Class indices, shape (B,); None or negative for "no class".
            null: Rows to be evaluated without their class, bool, shape (B,).
            cache: Keys and values of earlier frames; `x_t` then holds the frames that follow.

        Returns:
            The prediction, shape (B, F, L, C).
        """
        frames, device = x_t.shape[1], x_t.device
        memory = self.uncached(device) if cache is None else cache
        memory.begin(frames)
        cos, sin = self.phases(position=memory.position, frames=frames, device=device)  # (F L, d)
        if memory.conditions is None:
            *modulations, last = self.modulations(t, label=label, null=null)
        else:
            *modulations, last = memory.conditions(t)
        x = self.embed(x_t.to(self.embed.weight.dtype)) + self.position  # (B, F, L, D)
        for layer, (block, modulation) in enumerate(zip(self.blocks, modulations, strict=True)):
            x = block(x, modulation=modulation, cos=cos, sin=sin, memory=memory, layer=layer)
        shift, scale = rearrange(last, "b f (two d) -> two b f 1 d", two=2)
        return self.out(modulate(x, shift=shift, scale=scale))  # (B, F, L, C)

    def modulations(
        self, t: Tensor, label: Tensor | None, null: Tensor | None = None
    ) -> list[Tensor]:
        """Return the modulation of every block, (B, F, 6 D), and of the last layer, (B, F, 2 D).

        Args:
            t: Timestep of each frame, shape (B, F).
            label: Class indices, shape (B,); None or negative for "no class".
            null: Rows to be evaluated without their class, bool, shape (B,).
        """
        condition = F.silu(self.condition(t, label=label, null=null))  # (B, F, D)
        blocks = [block.modulation(condition) for block in self.blocks]  # pyright: ignore[reportCallIssue]
        return [*blocks, self.modulation(condition)]

    def condition(self, t: Tensor, label: Tensor | None, null: Tensor | None) -> Tensor:
        """Return the sum of timestep and class embedding, shape (B, F, D)."""
        c = self.time(t)  # (B, F, D)
        if self.label is None:
            return c
        if label is None:
            label = t.new_full((t.shape[0],), -1)
        return c + self.label(label, null=null)[:, None]

    def phases(
        self, position: int | Tensor, frames: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of every token's frame, shape (F L, d)."""
        cos, sin = rotary_phases(
            position=position, frames=frames, width=self.width // self.heads, device=device
        )
        dtype = torch.promote_types(self.embed.weight.dtype, torch.float32)
        pattern = "f d -> (f l) d"
        cos, sin = (repeat(a, pattern, l=self.tokens).to(dtype) for a in (cos, sin))
        return cos, sin

    def uncached(self, device: torch.device) -> Memory:
        """Return what stands in for a cache where all frames are computed together."""
        return Uncached(tokens=self.tokens, window=self.window, device=device)

    def make_cache(
        self,
        batch: int,
        frames: int,
        device: torch.device,
        timesteps: Tensor | None = None,
        label: Tensor | None = None,
        null: Tensor | None = None,
        static: bool = False,
    ) -> KVCache:
        """Return an empty cache for one run.

        Args:
            batch: Number of sequences B.
            frames: Most frames computed at once.
            device: Where the keys and values live.
            timesteps: All timesteps that the run will ask for, rising, shape (K,); their
                modulations are then computed here, once, unless there are too many to keep.
            label: Class indices of the run, shape (B,); None or negative for "no class".
            null: Rows to be evaluated without their class, bool, shape (B,).
            static: Whether shapes and addresses stay the same in every call, as CUDA graphs need.
        """
        autocast = torch.is_autocast_enabled(device.type)
        weights = self.embed.weight.dtype
        return (RingCache if static else KVCache)(
            layers=self.depth,
            batch=batch,
            heads=self.heads,
            width=self.width // self.heads,
            tokens=self.tokens,
            window=self.window,
            frames=frames,
            dtype=torch.get_autocast_dtype(device.type) if autocast else weights,
            device=device,
            conditions=self.tabulate(timesteps, label=label, null=null, device=device),
        )

    def tabulate(
        self,
        timesteps: Tensor | None,
        label: Tensor | None,
        null: Tensor | None,
        device: torch.device,
    ) -> ConditionTable | None:
        """Compute the modulations of a run, unless there are too many; see `make_cache`."""
        labels = 1 if label is None else len(label.unique()) + (null is not None)
        if timesteps is None or labels * len(timesteps) > MOST_CONDITIONS:
            return None
        return ConditionTable(self.modulations, timesteps.to(device), label, null)
