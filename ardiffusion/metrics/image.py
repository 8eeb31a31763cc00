"""Frame by frame similarity of two videos: PSNR and SSIM (Wang et al., 2004).

    SSIM = (2 μx μy + c1) (2 σxy + c2) / ((μx² + μy² + c1) (σx² + σy² + c2))

with moments under an 11 x 11 Gaussian window of deviation 1.5, averaged over colours and over the
window's places inside the frame. TorchMetrics' SSIM gives the same numbers, but its window is not
taken apart into rows and columns: in the double precision that is needed it is five times slower.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor
from torchmetrics.aggregation import MeanMetric

from ardiffusion.nn.rotary import float64_device

HIGHEST_PSNR = 100.0
WINDOW, DEVIATION = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def psnr(real: Tensor, fake: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels of uint8 videos (..., 3, H, W), one a frame, (...).

    It stops at 100 dB, about where one value in a frame of 256 x 256 pixels is off by one: a
    single frame without any error, say a black one, would make every average infinite.
    """
    error = reduce((unit_range(real) - unit_range(fake)).square(), "... c h w -> ...", "mean")
    return (-10 * error.log10()).clamp(max=HIGHEST_PSNR)


def ssim(real: Tensor, fake: Tensor) -> Tensor:
    """Structural similarity of uint8 videos (F, 3, H, W), one number a frame, (F,)."""
    if min(real.shape[-2:]) < WINDOW:
        raise ValueError(
            f"SSIM needs frames of {WINDOW} x {WINDOW} pixels or more, but these have "
            f"{real.shape[-2]} x {real.shape[-1]}; use a higher resolution."
        )
    # In double, because TensorFloat32 convolutions leave variances an error as large as c2.
    place = float64_device(real.device)
    x, y = (unit_range(video).to(place).double() for video in (real, fake))
    mean_x, mean_y = window_means(x), window_means(y)
    var_x = window_means(x.square()) - mean_x.square()
    var_y = window_means(y.square()) - mean_y.square()
    cov = window_means(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x.square() + mean_y.square() + C1)
    structure = (2 * cov + C2) / (var_x + var_y + C2)
    return reduce(luminance * structure, "f c h w -> f", "mean")


class FrameMean(MeanMetric):
    """The mean of a similarity over all frames of all videos, in float64.

    Args:
        similarity: Compares two uint8 videos (F, 3, H, W), giving one number a frame, (F,).
    """

    higher_is_better = True

    def __init__(self, similarity: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(nan_strategy="error")
        self.set_dtype(torch.float64)
        self.similarity = similarity

    def update(self, real: Tensor, fake: Tensor) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Add videos and their reconstructions, uint8 (B, F, 3, H, W)."""
        # One clip at a time, because SSIM holds several float copies of what it is given.
        for clips in zip(real, fake, strict=True):
            super().update(self.similarity(*clips))


def unit_range(video: Tensor) -> Tensor:
    if video.dtype != torch.uint8:
        raise ValueError(
            f"PSNR and SSIM take uint8 videos from 0 to 255, but this one is {video.dtype}; "
            f"convert it first."
        )
    return video.float() / 255


def window_means(x: Tensor) -> Tensor:
    """Gaussian averages around every place where the window fits, (F, 3, H - 10, W - 10)."""
    place = torch.arange(WINDOW, device=x.device, dtype=x.dtype) - WINDOW // 2
    weight = (place.square() / (-2 * DEVIATION**2)).softmax(dim=0)
    frames = len(x)
    x = rearrange(x, "f c h w -> (f c) 1 h w")
    x = F.conv2d(x, rearrange(weight, "k -> 1 1 k 1"))
    x = F.conv2d(x, rearrange(weight, "k -> 1 1 1 k"))
    return rearrange(x, "(f c) 1 h w -> f c h w", f=frames)
