"""Resizing of videos as clean-fid does it (Parmar et al., CVPR 2022): Pillow on float channels."""

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor


def resize_bicubic(video: Tensor, side: int) -> Tensor:
    """Resize each colour of a uint8 video (F, 3, H, W) as float with Pillow, to a square.

    What overshoots 0 and 255 is neither rounded nor clipped.
    """
    channels = rearrange(video, "f c h w -> (f c) h w").float().cpu().numpy()
    resized = [
        np.asarray(Image.fromarray(c).resize((side, side), Image.Resampling.BICUBIC))
        for c in channels
    ]
    return rearrange(torch.from_numpy(np.stack(resized)), "(f c) h w -> f c h w", f=len(video))
