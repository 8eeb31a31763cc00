"""The network I3D: Inception-v1 (Szegedy et al., 2015) with every filter inflated by a time axis.

Carreira and Zisserman (2017). Each convolution is followed by batch normalisation and ReLU;
convolutions and poolings pad as TensorFlow's "SAME" does, along each axis by

    max((ceil(n / stride) - 1) stride + kernel - n, 0), the smaller half of it in front
"""

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor, nn
from torch.nn.utils import skip_init

# Channels: in; 1x1; 1x1 before 3x3, 3x3; 1x1 before the smaller 3x3, that 3x3; after pooling.
# Inception-v1 has a 5x5 where I3D has its second 3x3.
MIXED = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}

Size = tuple[int, int, int]


class InflatedInception(nn.Module):
    """I3D for videos of 224 x 224 pixels; its weights are named as PyTorch's ports name them."""

    def __init__(self, classes: int = 400) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, kernel=7, stride=2)
        self.MaxPool3d_2a_3x3 = SamePool((1, 3, 3), stride=(1, 2, 2))
        self.Conv3d_2b_1x1 = Unit(64, 64, kernel=1)
        self.Conv3d_2c_3x3 = Unit(64, 192, kernel=3)
        self.MaxPool3d_3a_3x3 = SamePool((1, 3, 3), stride=(1, 2, 2))
        for name, channels in MIXED.items():
            if name == "Mixed_4b":
                self.MaxPool3d_4a_3x3 = SamePool((3, 3, 3), stride=(2, 2, 2))
            if name == "Mixed_5b":
                self.MaxPool3d_5a_2x2 = SamePool((2, 2, 2), stride=(2, 2, 2))
            self.add_module(name, Mixed(*channels))
        self.logits = Logits(sum(MIXED["Mixed_5c"][i] for i in (1, 3, 5, 6)), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map videos (B, 3, F, 224, 224) in [-1, 1] to logits (B, classes)."""
        for layer in self.children():
            x = layer(x)
        return x


class Unit(nn.Module):
    """Convolution, batch normalisation and ReLU."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel, kernel, kernel), (stride, stride, stride)
        # Drawing weights would cost time and disturb the randomness of training.
        self.conv3d = skip_init(
            nn.Conv3d, channels, out, kernel_size=kernel, stride=stride, bias=False
        )
        self.bn = nn.BatchNorm3d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_same(x, kernel=self.kernel, stride=self.stride)
        return self.bn(self.conv3d(x)).relu()


class SamePool(nn.Module):
    """Max pooling of values that are not negative, so that padding by zeros changes none."""

    def __init__(self, kernel: Size, stride: Size) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        x = pad_same(x, kernel=self.kernel, stride=self.stride)
        return F.max_pool3d(x, self.kernel, stride=self.stride)


class Mixed(nn.Module):
    """Inception block: four branches side by side."""

    def __init__(
        self, channels: int, one: int, before: int, three: int, less: int, small: int, pooled: int
    ) -> None:
        super().__init__()
        self.b0 = Unit(channels, one, kernel=1)
        self.b1a = Unit(channels, before, kernel=1)
        self.b1b = Unit(before, three, kernel=3)
        self.b2a = Unit(channels, less, kernel=1)
        self.b2b = Unit(less, small, kernel=3)
        self.b3a = SamePool((3, 3, 3), stride=(1, 1, 1))
        self.b3b = Unit(channels, pooled, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return torch.cat(branches, dim=1)


class Logits(nn.Module):
    """Average over 2 x 7 x 7 places, a linear map, and the mean over what time is left."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv3d = skip_init(nn.Conv3d, channels, classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(F.avg_pool3d(x, kernel_size=(2, 7, 7), stride=1))  # (B, classes, F', 1, 1)
        return reduce(x, "b c f 1 1 -> b c", "mean")


def pad_same(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Pad the last three axes with zeros as TensorFlow's "SAME" does."""
    pads: list[int] = []
    for n, k, s in zip(x.shape[-3:], kernel, stride, strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        pads = [total // 2, total - total // 2, *pads]  # F.pad counts axes from the last one
    return F.pad(x, pads)
