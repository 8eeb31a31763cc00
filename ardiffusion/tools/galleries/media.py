"""Videos as a browser plays them, H.264 in yuv420p, each with a strip of its frames."""

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import torch
from av.error import FFmpegError
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ardiffusion.data.video import VideoReader, VideoWriter, count_frames

SIDE = 256  # pixels of the longer side of what is encoded anew
THUMB = 96  # and of a frame in a strip
GAP = 2
SHOWN = 128  # frames in a strip at most: WebP ends at 16383 pixels
CHUNK = 32  # frames in memory
FPS = 25.0  # of a folder of frames


class Media(NamedTuple):
    """A video ready for the page: what plays it, its shape, and its strip as WebP."""

    path: Path
    frames: int
    fps: float
    width: int
    height: int
    strip: bytes
    every: int  # step between two frames of the strip


class Stream(NamedTuple):
    """What a file's packets tell without decoding it."""

    frames: int
    fps: float
    plays: bool


def prepare(source: Path, target: Path, every: int) -> Media:
    """Draw a video's strip, and encode the video to `target` where browsers cannot play it.

    Raises:
        ValueError: If it is broken or empty.
    """
    stream = probe(source)
    frames = stream.frames if stream.plays else count_frames(source)
    step = max(every, -(-frames // SHOWN))
    writer = None if stream.plays else VideoWriter(target, fps=stream.fps)
    shown, shape = [], (0, 0)
    try:
        for start, video in chunks(source, frames=frames):
            picked = video[-start % step :: step]
            shown += [fit(picked, side=THUMB)] if len(picked) else []
            shape = (video.shape[2], video.shape[3])
            if writer is not None:
                small = even(fit(video, side=SIDE))
                shape = (small.shape[2], small.shape[3])
                for frame in small:
                    writer.write(frame)
    except BaseException:
        if writer is not None:
            writer.discard()
        raise
    if writer is not None:
        writer.close()
    return Media(
        path=source if stream.plays else target,
        frames=frames,
        fps=stream.fps,
        width=shape[1],
        height=shape[0],
        strip=draw_strip(torch.cat(shown)),
        every=step,
    )


def probe(path: Path) -> Stream:
    """Tell whether browsers play a file frame-exactly: MP4, H.264, yuv420p, at a constant rate."""
    unknown = Stream(frames=0, fps=FPS, plays=False)
    if path.is_dir():
        return unknown
    try:
        with av.open(f"file:{path}", metadata_errors="ignore") as file:
            stream = file.streams.video[0]
            context, rate = stream.codec_context, stream.average_rate or Fraction(25)
            packets = [packet for packet in file.demux(stream) if packet.pts is not None]
            times = sorted(float((p.pts or 0) * (p.time_base or 0)) for p in packets)
            plays = (
                path.suffix.lower() in (".mp4", ".m4v")
                and context.name == "h264"
                and context.pix_fmt in ("yuv420p", "yuvj420p")
                and bool(times)
                and not any(packet.is_discard for packet in packets)
                and all(abs(t - i / rate) < 0.25 / rate for i, t in enumerate(times))
            )
    except (FFmpegError, IndexError):  # decoding it says what is wrong
        return unknown
    return Stream(frames=len(times), fps=min(max(float(rate), 1.0), 120.0), plays=plays)


def chunks(path: Path, frames: int) -> Iterator[tuple[int, Tensor]]:
    """Read a video in parts, uint8 (F, 3, H, W), each with the index of its first frame."""
    reader = VideoReader(path)
    for start in range(0, frames, CHUNK):
        yield start, reader.read(start=start, frames=min(CHUNK, frames - start))


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
    rows = torch.arange(height + height % 2).clamp(max=height - 1)
    columns = torch.arange(width + width % 2).clamp(max=width - 1)
    return video[:, :, rows][:, :, :, columns]


def draw_strip(video: Tensor) -> bytes:
    """Lay frames (F, 3, H, W) out in one line; the gaps between them are transparent."""
    frames = rearrange(video, "f c h w -> f h w c").numpy()
    count, height, width = frames.shape[:3]
    strip = Image.new("RGBA", (count * (width + GAP) - GAP, height))
    for i, frame in enumerate(frames):
        strip.paste(Image.fromarray(frame), (i * (width + GAP), 0))
    file = io.BytesIO()
    strip.save(file, "WEBP", quality=82, method=2)
    return file.getvalue()
