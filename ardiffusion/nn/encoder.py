"""The encoder of the AR-VAE: a ViT in which learned queries gather one frame into L tokens.

The sequence is [class token, patches, queries]; only the queries leave it, as moments of a
Gaussian (after TiTok, https://arxiv.org/abs/2406.07550).
"""

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from ardiffusion.nn.blocks import Block


def patch_positions(side: int, width: int) -> Tensor:
    """Build the table (side^2, D) of sines and cosines of each patch's row, then of its column."""
    if width % 4:
        raise ValueError(f"width {width} is not a multiple of 4; choose one that is.")
    frequencies = 10_000.0 ** -(torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (side, D / 2)
    rows, columns = repeat(line, "p d -> p q d", q=side), repeat(line, "q d -> p q d", p=side)
    return rearrange([rows, columns], "two p q d -> (p q) (two d)")  # (side^2, D)


class TokenHead(nn.Linear):
    """Makes the moments of every latent token from that token alone."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__(width, 2 * channels)
        nn.init.normal_(self.weight[:channels], std=width**-0.5)
        nn.init.zeros_(self.weight[channels:])
        nn.init.zeros_(self.bias[:channels])
        nn.init.constant_(self.bias[channels:], -4.0)  # samples begin close to the mean


class ScrambledHead(TokenHead):
    """The head of the published tokenizer: reads L x D tokens as D x L numbers in memory order.

    A reshape stands where a transpose was meant, so each moment mixes all tokens of its frame.
    """

    def forward(self, input: Tensor) -> Tensor:
        flat = rearrange(input, "n l d -> n (l d)")
        scrambled = rearrange(flat, "n (d l) -> n l d", l=input.shape[1])
        return super().forward(scrambled.contiguous())  # (N, L, 2C)


class Encoder(nn.Module):
    """ViT over the patches of one frame and L learned queries; for sizes see `ARVAE`.

    `head` is the class of the layer that makes the moments.
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
        head: type[TokenHead] = TokenHead,
    ) -> None:
        super().__init__()
        positions = patch_positions(side=resolution // patch, width=width)
        self.patches = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
        # Colours centred on grey count as much as positions do.
        nn.init.normal_(self.patches.weight, std=3 * (3 * patch**2) ** -0.5)
        grey = 0.5 * reduce(self.patches.weight.data, "d c p q -> d", "sum")
        self.patches.bias = nn.Parameter(-grey)
        self.class_token = nn.Parameter(torch.zeros(1, width))
        self.positions = nn.Parameter(torch.cat([torch.zeros(1, width), positions]))
        self.queries = nn.Parameter(torch.randn(tokens, width))
        self.query_positions = nn.Parameter(torch.zeros(tokens, width))
        self.norm_in = nn.LayerNorm(width)
        blocks = (Block(width=width, heads=heads, depth=depth) for _ in range(depth))
        self.blocks = nn.ModuleList(blocks)
        self.norm_out = nn.LayerNorm(width)
        self.head = head(width=width, channels=channels)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode frames (N, 3, H, W) in [0, 1] to mean and log-variance of tokens (N, L, 2C)."""
        patches = rearrange(self.patches(frames), "n d p q -> n (p q) d")
        first = repeat(self.class_token, "one d -> n one d", n=len(frames))
        seen = torch.cat([first, patches], dim=1) + self.positions  # (N, 1 + P, D)
        asked = repeat(self.queries + self.query_positions, "l d -> n l d", n=len(frames))
        x = self.norm_in(torch.cat([seen, asked], dim=1))  # (N, 1 + P + L, D)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm_out(x[:, -self.queries.shape[0] :]))  # (N, L, 2C)
