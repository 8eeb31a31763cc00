"""Datasets of clips: windows of `frames` frames out of videos, scaled and cropped to a square."""

import logging
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from ardiffusion.data.video import VideoReader
from ardiffusion.data.windows import draw, every_start, fresh_epoch, span

logger = logging.getLogger(__name__)


class Video(NamedTuple):
    """A video of the data set: its path below the root, its number of frames, its class or -1."""

    path: str
    frames: int
    label: int = -1


class Sample(TypedDict):
    """One clip: uint8 video (F, 3, H, W), class index or -1, "path:start"."""

    video: Tensor
    label: Tensor
    key: str


class BrokenData(ValueError):
    """More files broke than the user allows; one sentence even when a worker process raised it."""

    def __init__(self, message: str) -> None:
        # DataLoader rebuilds a worker's error from its traceback, which ends with the sentence
        super().__init__(message.strip().rsplit("BrokenData: ", maxsplit=1)[-1])


def resize_crop(video: Tensor, resolution: int) -> Tensor:
    """Scale the short side of a uint8 video (F, 3, H, W) to a resolution and crop the centre."""
    height, width = video.shape[-2:]
    short = min(height, width)
    if short != resolution:
        size = [round(side * resolution / short) for side in (height, width)]
        video = interpolate(video, size=size, mode="bicubic", antialias=True)
    top, left = ((side - resolution) // 2 for side in video.shape[-2:])
    return video[..., top : top + resolution, left : left + resolution].contiguous()


class ClipDataset(Dataset[Sample]):
    """Every clip of the videos: clips that follow each other and one that ends at the last frame.

    A video that cannot be read is reported once and stands aside: the next one takes its place.

    Args:
        root: Folder of the data set.
        videos: The videos to read.
        resolution: Height and width of the clips in pixels.
        frames: Frames per clip.
        stride: Step between two frames of a clip.
        may_break: How many videos may turn out broken before `BrokenData` is raised.
        skip: Keys of clips to leave out.
    """

    def __init__(
        self,
        root: str | Path,
        videos: Sequence[Video],
        resolution: int = 256,
        frames: int = 16,
        stride: int = 1,
        may_break: int = 0,
        skip: Collection[str] = (),
    ) -> None:
        self.root = Path(root)
        self.videos = [video for video in videos if video.frames >= span(frames, stride)]
        self.resolution, self.frames, self.stride = resolution, frames, stride
        self.may_break = may_break
        # one flag per video, shared by all workers
        self.broken = torch.zeros(len(self.videos), dtype=torch.bool).share_memory_()
        self.clips = [
            (number, start)
            for number, video in enumerate(self.videos)
            for start in every_start(video.frames, frames=frames, stride=stride)
            if f"{video.path}:{start}" not in skip
        ]

        self._reader: tuple[int, VideoReader] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_reader": None}

    def __len__(self) -> int:
        return len(self.clips)

    def keys(self) -> list[str]:
        return [f"{self.videos[number].path}:{start}" for number, start in self.clips]

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"Clip {index} of {len(self)}.")
        for other in range(len(self)):
            number, start = self.clips[(index + other) % len(self)]
            if (sample := self._try(number, start)) is not None:
                return sample
        raise BrokenData(f"No video under {self.root} can be read: check the data folder.")

    def _try(self, number: int, start: int) -> Sample | None:
        if self.broken[number]:
            return None
        try:
            return self._read(self.videos[number], start)
        except (ValueError, OSError) as error:
            self._set_aside(number, error)
            return None

    def _read(self, video: Video, start: int) -> Sample:
        path = self.root / video.path
        # an open file must not be read by two processes, which a fork would make of one
        if self._reader is None or (self._reader[0], self._reader[1].path) != (os.getpid(), path):
            self._reader = (os.getpid(), VideoReader(path))
        clip = self._reader[1].read(start=start, frames=self.frames, stride=self.stride)
        return {
            "video": resize_crop(clip, self.resolution),
            "label": torch.tensor(video.label),
            "key": f"{video.path}:{start}",
        }

    def _set_aside(self, number: int, error: Exception) -> None:
        self.broken[number] = True
        broken = int(self.broken.sum())
        if broken > self.may_break:
            raise BrokenData(
                f"{broken} of {len(self.videos)} videos under {self.root} broke since they were "
                f"counted, the last one: {error} Repair them or raise --data.max_broken."
            ) from error
        logger.warning("Skipped a video from now on: %s", error)


class RandomClipDataset(ClipDataset):
    """Random clips of every video, other ones in every epoch.

    An index `(epoch, i)`, as `EpochSampler` gives it, always names the same clip; with a plain
    index `i` torch's default generator draws one.

    Args:
        root: Folder of the data set.
        videos: The videos to read.
        resolution: Height and width of the clips in pixels.
        frames: Frames per clip.
        stride: Step between two frames of a clip.
        may_break: How many videos may turn out broken before `BrokenData` is raised.
        clips_per_video: Clips of each video in one epoch.
        seed: Seed of the draws.
    """

    def __init__(
        self,
        root: str | Path,
        videos: Sequence[Video],
        resolution: int = 256,
        frames: int = 16,
        stride: int = 1,
        may_break: int = 0,
        clips_per_video: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(
            root,
            videos,
            resolution=resolution,
            frames=frames,
            stride=stride,
            may_break=may_break,
        )
        self.clips_per_video, self.seed = clips_per_video, seed

    def __len__(self) -> int:
        return len(self.videos) * self.clips_per_video

    def __getitem__(self, index: int | tuple[int, int]) -> Sample:
        epoch, index = index if isinstance(index, tuple) else (fresh_epoch(), index)
        if not 0 <= index < len(self):
            raise IndexError(f"Clip {index} of {len(self)}.")
        for other in range(len(self.videos)):
            number = (index + other) % len(self.videos)
            room = self.videos[number].frames - span(self.frames, self.stride) + 1
            start = draw(room, seed=self.seed, epoch=epoch, index=index + other)
            if (sample := self._try(number, start)) is not None:
                return sample
        raise BrokenData(f"No video under {self.root} can be read: check the data folder.")
