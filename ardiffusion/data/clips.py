"""Frames of video files as clips: scaled and cropped to a square."""

import os
from pathlib import Path

from torch import Tensor
from torch.nn.functional import interpolate

from ardiffusion.data.index import known_table
from ardiffusion.data.stamp import stamp
from ardiffusion.data.video import VideoReader
from ardiffusion.data.windows import FrameSpan


def resize_crop(video: Tensor, resolution: int) -> Tensor:
    """Scale the short side of a uint8 video (F, 3, H, W) to a resolution and crop the centre."""
    height, width = video.shape[-2:]
    short = min(height, width)
    if short != resolution:
        size = [round(side * resolution / short) for side in (height, width)]
        video = interpolate(video, size=size, mode="bicubic", antialias=True)
    top, left = ((side - resolution) // 2 for side in video.shape[-2:])
    return video[..., top : top + resolution, left : left + resolution].contiguous()


class VideoFiles:
    """Reads clips of the videos below a folder, uint8 (F, 3, H, W).

    Args:
        root: Folder of the data set.
        resolution: Height and width of the clips in pixels.
        cache: Folder of the index, which says where to seek in long videos.
    """

    name = "video"

    def __init__(
        self, root: str | Path, resolution: int = 256, cache: str | Path | None = None
    ) -> None:
        self.place, self.resolution, self.cache = root, resolution, cache
        self._open: tuple[int, str, VideoReader] | None = None  # by whom, what

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": None}

    def read(self, span: FrameSpan, first: int, frames: int, step: int) -> Tensor:
        """Read a clip; those of one video that follow each other are decoded in one go."""
        # an open file must not be read by two processes, which a fork would make of one
        if self._open is None or self._open[:2] != (os.getpid(), span.path):
            self._open = None  # which may not outlast its file
            self._open = (os.getpid(), span.path, self.open(span.path))
        clip = self._open[2].read(start=span.start + first, frames=frames, stride=step)
        return resize_crop(clip, self.resolution)

    def open(self, path: str) -> VideoReader:
        """Open a video by its path below the place."""
        file = Path(self.place, path)
        return VideoReader(file, known_table(file, self.cache))

    def stamp(self, path: str) -> str:
        """Say what changes with the content of a video."""
        return stamp(Path(self.place, path))
