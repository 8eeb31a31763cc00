"""The pixel decoder of the AR-VAE: convolutions that double the resolution log2(patch) times.

Level l has width * 2^(l // 2) channels; the levels run from log2(patch) down to 0, the pixels
(after the decoder of MaskGIT's VQGAN, https://arxiv.org/abs/2202.04200).
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalise groups of at least 4 channels each, at most 32 groups."""
    groups = math.gcd(32, max(channels // 4, 1), channels)
    return nn.GroupNorm(num_groups=groups, num_channels=channels, eps=1e-6)


def conv(
    inputs: int, outputs: int, *, size: int = 3, bias: bool = True, gain: float = 1.0
) -> nn.Conv2d:
    """Make a convolution that keeps height and width, with outputs of variance gain^2 at first."""
    layer = nn.Conv2d(inputs, outputs, kernel_size=size, padding=size // 2, bias=bias)
    nn.init.normal_(layer.weight, std=gain * (inputs * size**2) ** -0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def activated(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Normalise and take the SiLU, in place where no gradient asks for what was there."""
    return F.silu(norm(x), inplace=not torch.is_grad_enabled())


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside an identity, or a 1x1 one where channels change."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs)
        self.conv1 = conv(inputs, outputs, bias=False)
        self.norm2 = group_norm(outputs)
        self.conv2 = conv(outputs, outputs, bias=False, gain=0.0)
        self.shortcut = self.make_shortcut(inputs, outputs) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, inputs, H, W) to (N, outputs, H, W)."""
        h = self.conv1(activated(self.norm1, x))
        h = self.conv2(activated(self.norm2, h))
        return h + self.residual(x, h)

    def make_shortcut(self, inputs: int, outputs: int) -> nn.Conv2d:
        return conv(inputs, outputs, size=1, bias=False)

    def residual(self, x: Tensor, h: Tensor) -> Tensor:
        """Choose what is added to the convolutions' result h, given the block's input x."""
        return x if self.shortcut is None else self.shortcut(x)


class DetachedResidualBlock(ResidualBlock):
    """The block of the published tokenizer: where channels change, its input is not added.

    Its shortcut acts on the convolutions' own result.
    """

    def make_shortcut(self, inputs: int, outputs: int) -> nn.Conv2d:
        return conv(outputs, outputs, size=1, bias=False)

    def residual(self, x: Tensor, h: Tensor) -> Tensor:
        return x if self.shortcut is None else self.shortcut(h)


class Level(nn.Module):
    """Two residual blocks at one resolution, then a doubling of it unless it is the last."""

    def __init__(self, inputs: int, outputs: int, last: bool, block: type[ResidualBlock]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(block(inputs, outputs), block(outputs, outputs))
        self.upsample = None if last else conv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, inputs, H, W) to (N, outputs, 2H, 2W), or (N, outputs, H, W)."""
        x = self.blocks(x)
        return x if self.upsample is None else doubled(x, self.upsample)


def doubled(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """Double height and width of features, then convolve them with a 3x3 kernel.

    Of the nine products of a pixel those with the same neighbour are one: 4 x 4 weights, sums of
    neighbouring ones, meet the features before they are doubled.
    """
    sums = 4 * F.avg_pool2d(layer.weight.flip(2, 3), kernel_size=2, stride=1, padding=1)
    kernel = rearrange(sums, "outputs inputs h w -> inputs outputs h w")
    return F.conv_transpose2d(x, kernel, layer.bias, stride=2, padding=1)


class PixelDecoder(nn.Module):
    """Convolutional decoder from one embedding per patch to pixels; `width` is that of the end."""

    def __init__(
        self, patch: int, width: int, embedding: int, block: type[ResidualBlock] = ResidualBlock
    ) -> None:
        super().__init__()
        levels = patch.bit_length() - 1
        if patch != 2**levels:
            raise ValueError(f"patch {patch} is not a power of two; choose one, such as 16.")
        sizes = [width * 2 ** (level // 2) for level in range(levels + 1)]
        sizes.append(sizes[-1])  # what enters the top level
        self.conv_in = conv(embedding, sizes[-1])
        self.middle = nn.Sequential(block(sizes[-1], sizes[-1]), block(sizes[-1], sizes[-1]))
        self.levels = nn.ModuleList(
            Level(inputs=sizes[level + 1], outputs=sizes[level], last=level == 0, block=block)
            for level in range(levels + 1)
        )
        self.norm_out = group_norm(width)
        self.conv_out = conv(width, 3, gain=0.3)
        self.conv_out.bias = nn.Parameter(torch.full((3,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Map embeddings (N, embedding, H / patch, W / patch) to frames (N, 3, H, W)."""
        # One pixel's channels side by side: on a CPU a quarter faster, forward and backward.
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.middle(self.conv_in(x))
        for level in reversed(self.levels):
            x = level(x)
        return self.conv_out(activated(self.norm_out, x))  # (N, 3, H, W)
