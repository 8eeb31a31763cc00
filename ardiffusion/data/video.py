"""Frame-exact reading of videos: files through PyAV, folders of pictures through Pillow.

Frame `i` is the i-th picture that a full sequential decode yields. Timestamps are never turned
into indices and files are never seeked: AVI with B-frames, edit lists and variable frame rates
make both land on the wrong frame.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import av
import numpy as np
import torch
from av.buffer import Buffer
from av.error import FFmpegError
from av.sidedata.sidedata import Type as SideData
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from einops import rearrange
from PIL import Image, ImageOps
from torch import Tensor

from ardiffusion.data.writer import VideoWriter, write_video

__all__ = [
    "PICTURES",
    "VideoReader",
    "VideoWriter",
    "count_frames",
    "picture_files",
    "read_frames",
    "write_video",
]

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
_LARGE = 1280 * 720  # pixels from which decoding a whole file on several threads pays


def picture_files(folder: Path) -> list[Path]:
    """List the pictures of a folder in the order of the last integer in their names."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES and p.name[0] != "."]

    def order(path: Path) -> tuple[int, str]:
        numbers = re.findall(r"\d+", path.stem)
        return (int(numbers[-1]) if numbers else -1, path.name)

    return sorted(found, key=order)


def _frames(path: Path, threads: bool) -> Iterator[VideoFrame]:
    """Decode a video from its first frame to its last."""
    try:
        # "file:" keeps FFmpeg from reading a protocol out of a name such as "a:b.mp4"
        with av.open(f"file:{path}", mode="r", metadata_errors="ignore") as container:
            if not container.streams.video:
                raise ValueError(f"{path} holds no video stream: remove it from the data folder.")
            stream = container.streams.video[0]
            large = stream.codec_context.width * stream.codec_context.height >= _LARGE
            if threads and large:
                stream.thread_type = "AUTO"
            else:
                stream.codec_context.thread_count = 1
            yield from container.decode(stream)
    except FFmpegError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ValueError(f"{path} is broken or not a video ({reason}): replace it.") from error


def _upright(picture: Tensor, frame: VideoFrame) -> Tensor:
    """Turn a picture (H, W, 3) as the display matrix of its frame demands."""
    sides = cast(Mapping[SideData, object], frame.side_data)  # av's own hints say str
    matrix = sides.get(SideData.DISPLAYMATRIX)
    if not isinstance(matrix, Buffer):
        return picture
    # x' = a x + c y and y' = b x + d y (16.16 fixed point), rows of three: (a b u)(c d v)(x y w)
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    if abs(b) > abs(a):
        picture = rearrange(picture, "h w c -> w h c")
        a, d = c, b
    flips = [axis for axis, sign in ((0, d), (1, a)) if sign < 0]
    return picture.flip(flips) if flips else picture


def _picture(path: Path, size: tuple[int, int] | None) -> Tensor:
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is broken or not a picture: replace it.") from error
    if size is not None and picture.size != size:
        picture = picture.resize(size, resample=Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture))  # (H, W, 3)


def read_picture(path: str | Path) -> Tensor:
    """Read a picture, uint8 (3, H, W), upright."""
    return rearrange(_picture(Path(path), size=None), "h w c -> c h w")


def _read_folder(path: Path, wanted: slice) -> list[Tensor]:
    pictures: list[Tensor] = []
    for file in picture_files(path)[wanted]:
        first = pictures[0] if pictures else None
        size = None if first is None else (first.shape[1], first.shape[0])
        pictures.append(_picture(file, size=size))
    return pictures


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: check the path of the video.")
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: replace it.")


class VideoReader:
    """Read clips of a video; those of a file that follow each other are decoded in one go.

    Args:
        path: Video file, or folder of pictures sorted by the last integer in their names.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._frames: Iterator[VideoFrame] = iter(())
        self._next: int | None = None  # index of the frame that comes next, None at the end
        self._size = (0, 0)  # width and height of the first frame
        self._convert = VideoReformatter()

    def _decode(self, wanted: slice) -> list[Tensor]:
        if self._next is None or wanted.start < self._next:
            # for a clip the start of FFmpeg's threads costs more than they save
            self._frames, self._next = _frames(self.path, threads=wanted.stop is None), 0
        found: list[Tensor] = []
        first, self._next = self._next, None  # an error or the end leaves nothing to go on with
        for index, frame in enumerate(self._frames, start=first):
            self._size = (frame.width, frame.height) if index == 0 else self._size
            if index >= wanted.start and (index - wanted.start) % wanted.step == 0:
                found.append(self._picture(frame))
            if wanted.stop is not None and index + 1 >= wanted.stop:
                self._next = index + 1
                break
        return found

    def _picture(self, frame: VideoFrame) -> Tensor:
        width, height = self._size
        rgb = self._convert.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        return _upright(torch.from_numpy(rgb.to_ndarray()), frame=frame)

    def read(self, start: int = 0, frames: int | None = None, stride: int = 1) -> Tensor:
        """Read a clip as `read_frames` does."""
        if start < 0 or stride < 1 or (frames is not None and frames < 1):
            raise ValueError(
                f"Cannot read start={start}, frames={frames}, stride={stride} of {self.path}: "
                "start must be at least 0, frames and stride at least 1."
            )
        _check_exists(self.path)
        stop = None if frames is None else start + (frames - 1) * stride + 1
        wanted = slice(start, stop, stride)
        folder = self.path.is_dir()
        pictures = _read_folder(self.path, wanted) if folder else self._decode(wanted)
        if not pictures or len(pictures) != (frames or len(pictures)):
            raise ValueError(
                f"{self.path} is too short: {frames or 'any'} frames from frame {start} on at "
                f"stride {stride} were asked for, and {len(pictures)} are there."
            )
        return rearrange(torch.stack(pictures), "f h w c -> f c h w")  # (F, 3, H, W)


def read_frames(
    path: str | Path, start: int = 0, frames: int | None = None, stride: int = 1
) -> Tensor:
    """Read frames `start, start + stride, ...` of a video file or of a folder of pictures.

    Args:
        path: Video file, or folder of pictures sorted by the last integer in their names.
        start: Index of the first frame.
        frames: How many frames to read, all to the end by default.
        stride: Step between two frames.

    Returns:
        uint8 video (F, 3, H, W), upright; a picture of another size is scaled to the first one's.
    """
    return VideoReader(path).read(start=start, frames=frames, stride=stride)


def count_frames(path: str | Path) -> int:
    """Count the frames a full decode yields, or the pictures of a folder."""
    path = Path(path)
    _check_exists(path)
    count = (
        len(picture_files(path)) if path.is_dir() else sum(1 for _ in _frames(path, threads=True))
    )
    if count == 0:
        raise ValueError(f"{path} holds no frames: remove it from the data folder.")
    return count
