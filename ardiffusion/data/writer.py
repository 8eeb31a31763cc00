"""Writing of videos as H.264 in MP4, frame by frame and all or nothing."""

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import torch
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from einops import rearrange
from torch import Tensor

from ardiffusion.files import partial_path, shown, write_failure

FPS = (0.1, 1000.0)  # players and containers know the rates between
_BT709 = 1  # AVCOL_SPC_BT709, AVCOL_PRI_BT709 and AVCOL_TRC_BT709
_ACCURATE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class VideoWriter:
    """Write an H.264 MP4 frame by frame; the file appears, whole, when the writer is closed.

    Pictures of even size become yuv420p, which plays everywhere. H.264 cannot hold odd sizes in
    yuv420p, so these become yuv444p, which keeps the size and which most desktop players know.

    Args:
        path: The MP4 file to write.
        fps: Frames per second, from 0.1 to 1000.
        crf: Constant rate factor of x264: 0 is nearly lossless, 18 looks so, 51 is worst.
    """

    def __init__(self, path: str | Path, fps: float = 25, crf: int = 18) -> None:
        low, high = FPS
        if not low <= fps <= high or not 0 <= crf <= 51:
            raise ValueError(
                f"Cannot write {shown(path)}: fps={fps} must be from {low:g} to {high:g}, crf="
                f"{crf} from 0 to 51."
            )
        self.path = Path(path)
        self.partial: Path | None = None
        self.fps, self.crf = fps, crf
        self.frames = 0
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._convert = VideoReformatter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _create(self, height: int, width: int) -> None:
        self.partial = partial_path(self.path)
        self._container = av.open(f"file:{self.partial}", mode="w", format="mp4")
        rate = Fraction(self.fps).limit_denominator(1001)
        options = {"crf": str(self.crf)}
        if torch.backends.cpu.get_cpu_capability() == "AVX512":
            # x264's code for it decides about small frames by what memory holds by chance
            options["x264-params"] = "asm=avx2"
        stream = self._container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"
        context = stream.codec_context
        context.thread_count = 1  # x264's output depends on its number of threads
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = 1
        self._stream = stream

    def write(self, frame: Tensor) -> None:
        """Append one frame, uint8 (3, H, W)."""
        pixels = rearrange(frame, "c h w -> h w c").contiguous().cpu().numpy()
        picture = VideoFrame.from_ndarray(pixels, format="rgb24")
        try:
            if self._container is None:
                self._create(height=picture.height, width=picture.width)
            self._encode(picture)
        except (OSError, FFmpegError) as error:
            self.discard()
            raise write_failure(self.path, error) from error
        self.frames += 1

    def close(self) -> None:
        """Finish the file and move it into place."""
        if self._container is None or self.partial is None:
            raise ValueError(f"Cannot write {shown(self.path)}: it was given no frames.")
        try:
            self._encode(None)
            self._container.close()
            os.replace(self.partial, self.path)
        except (OSError, FFmpegError) as error:
            self.discard()
            raise write_failure(self.path, error) from error

    def discard(self) -> None:
        """Drop what was written."""
        if self._container is not None:
            with suppress(OSError, FFmpegError):
                self._container.close()
        if self.partial is not None:
            self.partial.unlink(missing_ok=True)

    def _encode(self, picture: VideoFrame | None) -> None:
        container, stream = self._container, self._stream
        assert container is not None and stream is not None
        if picture is not None:
            if (picture.width, picture.height) != (stream.width, stream.height):
                raise ValueError(
                    f"Cannot write {shown(self.path)}: a frame of {picture.width}x"
                    f"{picture.height} follows one of {stream.width}x{stream.height}."
                )
            picture = self._convert.reformat(
                picture,
                format=stream.pix_fmt,
                dst_colorspace=Colorspace.ITU709,
                interpolation=_ACCURATE,
                threads=1,  # more cost more than they save
            )
        container.mux(stream.encode(picture))


def write_video(path: str | Path, frames: Tensor, fps: float = 25, crf: int = 18) -> None:
    """Write a uint8 video (F, 3, H, W) as `VideoWriter` does."""
    with VideoWriter(path, fps=fps, crf=crf) as writer:
        for frame in frames:
            writer.write(frame)
