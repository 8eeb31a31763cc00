"""The decoder of the AR-VAE: latent tokens to one feature vector per patch, and the soft codebook.

The sequence of a frame is [class token, one mask token per patch, latent tokens]; only the patches
leave it. With temporal pairs a frame also sees earlier frames, never later ones.
"""

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from ardiffusion.nn.blocks import Block, PairCache, TemporalPair
from ardiffusion.nn.encoder import patch_positions
from ardiffusion.nn.linear import linear


class Decoder(nn.Module):
    """Transformer over mask tokens and latent tokens, causal in time; for sizes see `ARVAE`.

    If it is `temporal`, a temporal pair stands before every block.
    """

    def __init__(
        self,
        *,
        resolution: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        tokens: int,
        channels: int,
        temporal: bool = False,
        window: int = 16,
    ) -> None:
        super().__init__()
        positions = patch_positions(side=resolution // patch, width=width)
        self.embed = linear(channels, width, gain=channels**0.5)
        self.class_token = nn.Parameter(torch.zeros(1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.positions = nn.Parameter(torch.cat([torch.zeros(1, width), positions]))
        self.latent_positions = nn.Parameter(0.5 * torch.randn(tokens, width))
        self.norm_in = nn.LayerNorm(width)
        blocks = (Block(width=width, heads=heads, depth=depth) for _ in range(depth))
        self.blocks = nn.ModuleList(blocks)
        self.temporal = nn.ModuleList(
            TemporalPair(width=width, heads=heads, tokens=tokens, window=window)
            for _ in range(depth if temporal else 0)
        )
        self.norm_out = nn.LayerNorm(width)

    def make_cache(self) -> list[PairCache]:
        """Make what a new video begins with: empty, one entry per temporal pair."""
        return [pair.make_cache() for pair in self.temporal if isinstance(pair, TemporalPair)]

    def forward(self, latents: Tensor, cache: list[PairCache]) -> Tensor:
        """Turn normalised tokens (B, F, L, C) of the next frames into features (B F, P, D)."""
        x = self.norm_in(self.assemble(rearrange(latents, "b f l c -> (b f) l c")))
        for i, block in enumerate(self.blocks):
            if cache:
                x = rearrange(x, "(b f) n d -> b f n d", f=latents.shape[1])
                x = rearrange(self.temporal[i](x, cache=cache[i]), "b f n d -> (b f) n d")
            x = block(x)
        return self.norm_out(x[:, 1 : self.positions.shape[0]])  # (B F, P, D)

    def assemble(self, latents: Tensor) -> Tensor:
        """Put the class token and the mask tokens before latents (N, L, C)."""
        patches = self.positions.shape[0] - 1
        blank = torch.cat(
            [self.class_token, repeat(self.mask_token, "one d -> (p one) d", p=patches)]
        )
        blank = repeat(blank + self.positions, "p d -> n p d", n=len(latents))  # (N, 1 + P, D)
        return torch.cat([blank, self.embed(latents) + self.latent_positions], dim=1)


class SoftCodebook(nn.Module):
    """Turns every patch into a mixture of `codebook` learned embeddings, weighted by a softmax."""

    def __init__(self, width: int, codebook: int, embedding: int) -> None:
        super().__init__()
        # Small logits and large embeddings around zero make the layer almost linear at first. With
        # larger logits the softmax saturates within a hundred steps and never learns.
        spread = 0.3
        self.logits = nn.Sequential(
            linear(width, 2 * width, gain=0.25),
            nn.Tanh(),
            linear(2 * width, codebook, gain=4 * spread),
        )
        self.mix = nn.Linear(codebook, embedding)
        nn.init.normal_(self.mix.weight, std=codebook**0.5 / spread)
        self.mix.bias.data.copy_(-reduce(self.mix.weight.data, "e k -> e", "mean"))

    def forward(self, x: Tensor) -> Tensor:
        """Map patches (N, P, D) to mixtures (N, P, embedding)."""
        return self.mix(self.logits(x).softmax(dim=-1))
