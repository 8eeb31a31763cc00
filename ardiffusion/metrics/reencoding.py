"""How the code released with AR-Diffusion prepares videos: MPEG-4 part 2, then Pillow's resizing.

`VideoWriter` of OpenCV with `mp4v` asks FFmpeg for 2 bits per pixel and frame, quantisers from 3
on, an intra frame every 12 frames and yuv420p, and drops the last row or column of odd sizes.
Resizing is that of clean-fid (Parmar et al., CVPR 2022), on float channels.
"""

import io
from typing import cast

import av
import numpy as np
import torch
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from einops import rearrange
from PIL import Image
from torch import Tensor

FPS = 25  # of no consequence: the bits per second grow with it
BITS, QMIN, GOP = 2, 3, 12


def through_mp4v(video: Tensor) -> Tensor:
    """Encode and decode a uint8 video (F, 3, H, W), giving (F, 3, H', W') of even size."""
    height, width = (side // 2 * 2 for side in video.shape[-2:])
    if min(height, width) < 2:
        raise ValueError(f"Frames of {tuple(video.shape[-2:])} pixels are too small for MPEG-4.")
    file = io.BytesIO()
    with av.open(file, mode="w", format="mp4") as container:
        _encode(container, video[..., :height, :width])
    file.seek(0)
    with av.open(file, mode="r", format="mp4") as container:
        container.streams.video[0].codec_context.thread_count = 1
        pictures = [
            frame.reformat(format="rgb24", interpolation=Interpolation.BICUBIC).to_ndarray()
            for frame in container.decode(video=0)
        ]
    assert len(pictures) == len(video)
    frames = torch.stack([torch.from_numpy(picture) for picture in pictures])
    return rearrange(frames, "f h w c -> f c h w")


def _encode(container: OutputContainer, video: Tensor) -> None:
    stream = container.add_stream("mpeg4", rate=FPS, options={"qmin": str(QMIN)})
    stream.height, stream.width = video.shape[-2:]
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.thread_count = 1  # the bytes may depend on it
    context.gop_size = GOP
    context.bit_rate = context.bit_rate_tolerance = BITS * FPS * stream.height * stream.width
    for pixels in rearrange(video, "f c h w -> f h w c").contiguous().cpu().numpy():
        picture = VideoFrame.from_ndarray(pixels, format="rgb24")
        picture = picture.reformat(format="yuv420p", interpolation=Interpolation.BICUBIC)
        container.mux(stream.encode(cast(VideoFrame, picture)))
    container.mux(stream.encode(None))


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
