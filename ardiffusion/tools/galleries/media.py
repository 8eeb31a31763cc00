"""Videos as a browser plays them, H.264 in yuv420p, each with a strip of its frames."""

import io
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ardiffusion.data.streams import open_video
from ardiffusion.data.video import VideoReader, count_frames
from ardiffusion.data.writer import VideoWriter

SIDE = 256  # pixels of the longer side of what is encoded anew
THUMB = 96  # and of a frame in a strip
GAP = 2
SHOWN = 128  # frames in a strip at most: WebP ends at 16383 pixels
CHUNK = 32  # frames in memory
FPS = 25.0  # of a folder of frames


class Media(NamedTuple):
    """A video ready for the page: its id there, what plays it, and its strip as WebP."""

    id: str
    path: Path
    frames: int
    fps: float
    width: int
    height: int
    strip: bytes
    every: int  # step between two frames of the strip


def prepare(source: Path, target: Path, every: int) -> Media:
    """Draw a video's strip, and encode the video to `target` where browsers cannot play it."""
    fps, playable = probe(source)
    frames = playable or count_frames(source)
    step = max(every, -(-frames // SHOWN))
    reader, shown, height, width = VideoReader(source), [], 0, 0
    with nullcontext() if playable else VideoWriter(target, fps=fps) as writer:
        for start in range(0, frames, CHUNK):
            video = reader.read(start=start, frames=min(CHUNK, frames - start))  # (F, 3, H, W)
            picked = video[-start % step :: step]
            shown += [fit(picked, side=THUMB)] if len(picked) else []
            if writer is not None:
                video = even(fit(video, side=SIDE))
                for frame in video:
                    writer.write(frame)
            height, width = video.shape[2:]
    return Media(
        id=target.stem,
        path=source if playable else target,
        frames=frames,
        fps=fps,
        width=width,
        height=height,
        strip=draw_strip(torch.cat(shown)),
        every=step,
    )


def probe(path: Path) -> tuple[float, int]:
    """Read a video's rate, and its number of frames if browsers play it frame-exactly, else 0."""
    if path.is_dir():
        return FPS, 0
    try:
        with open_video(path) as (file, stream):
            context, rate = stream.codec_context, stream.average_rate or Fraction(25)
            packets = [packet for packet in file.demux(stream) if packet.pts is not None]
            times = sorted(float((p.pts or 0) * (p.time_base or 0)) for p in packets)
            steady = all(abs(t - i / rate) < 0.25 / rate for i, t in enumerate(times))
            plays = (
                path.suffix.lower() in (".mp4", ".m4v")
                and context.name == "h264"
                and context.pix_fmt in ("yuv420p", "yuvj420p")
                and not any(packet.is_discard for packet in packets)
            )
    except ValueError:  # decoding it says what is wrong
        return FPS, 0
    return min(max(float(rate), 1.0), 120.0), len(times) if plays and steady else 0


def fit(video: Tensor, side: int) -> Tensor:
    """Scale a video (F, 3, H, W) down until no side is longer; smaller ones are kept."""
    height, width = video.shape[2:]
    scale = side / max(height, width)
    if scale >= 1:
        return video
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = interpolate(video.float(), size=size, mode="bicubic", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)


def even(video: Tensor) -> Tensor:
    """Repeat the last row and column of odd sizes, which yuv420p cannot hold."""
    height, width = video.shape[2:]
    return pad(video.float(), (0, width % 2, 0, height % 2), mode="replicate").to(torch.uint8)


def draw_strip(video: Tensor) -> bytes:
    """Lay frames (F, 3, H, W) out in one line; the gaps between them are transparent."""
    opaque = torch.cat([video, torch.full_like(video[:, :1], 255)], dim=1)  # (F, 4, H, W)
    spaced = rearrange(pad(opaque, (0, GAP)), "f c h w -> h (f w) c")
    file = io.BytesIO()
    Image.fromarray(spaced[:, :-GAP].numpy()).save(file, "WEBP", quality=82, method=2)
    return file.getvalue()
