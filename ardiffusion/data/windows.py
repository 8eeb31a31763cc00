"""Windows of frames: which frames of a video make a clip, and data sets of such clips.

The same data sets serve videos and latents: what differs is the reader, of files or of a cache.
"""

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ardiffusion.data.spans import FrameSpan, Spans

Number = TypeVar("Number", int, np.ndarray)
logger = logging.getLogger(__name__)


class Reader(Protocol):
    """What reads frames below a place, and under which name they stand in a sample."""

    name: str

    @property
    def place(self) -> str | Path: ...

    def read(self, span: FrameSpan, first: int, frames: int, step: int) -> Tensor:
        """Read every `step`th frame of a span from a first one on, (F, ...)."""
        ...


class BrokenData(ValueError):
    """Data that cannot be gone on with; one sentence even when a worker process raised it."""

    def __init__(self, message: str) -> None:
        # DataLoader rebuilds a worker's error from its traceback, which ends with the sentence
        super().__init__(message.strip().rsplit("BrokenData: ", maxsplit=1)[-1])


def extent(frames: int, stride: Number) -> Number:
    """Count the frames from the first to the last of a clip."""
    return (frames - 1) * stride + 1


def every_start(length: int, frames: int, stride: int) -> list[int]:
    """Cut a sequence into clips that follow each other, the last one ending at its last frame.

    With a stride the clips continue each other's grid of frames 0, stride, 2 stride, ... to its
    end, and one more clip leaves the grid if the last frame does not lie on it.
    """
    last = length - extent(frames, stride)
    if last < 0:
        return []
    ends = {last // stride * stride, last}
    return sorted({*range(0, last + 1, frames * stride), *ends})


def count_starts(room: np.ndarray, frames: int, step: np.ndarray) -> np.ndarray:
    """Count what `every_start` lists, of sequences with so many places to start at."""
    last = room - 1
    end = last // step * step  # on the grid
    count = last // (frames * step) + 1 + (end % (frames * step) != 0) + (end != last)
    return np.where(room > 0, count, 0)


def draw(choices: int, seed: int, epoch: int, index: int) -> int:
    """Draw one of several choices, the same for a sample of an epoch wherever it is read."""
    name = f"{seed}/{epoch}/{index}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") % choices


class EveryWindow(Dataset[dict[str, Any]]):
    """Every clip: clips that follow each other, and one that ends at the last frame.

    A sample holds the clip under its reader's name, its `label` (or -1) and its `key`. A video
    that cannot be read is reported once and stands aside: the next one takes its place.

    Args:
        reader: What the frames are read from.
        spans: The frames; a span that is too short for a clip is passed over.
        frames: Frames per clip.
        stride: Step between two frames of a clip, in frames of the video.
        may_break: How many videos may turn out broken before `BrokenData` is raised.
    """

    def __init__(
        self,
        reader: Reader,
        spans: Iterable[FrameSpan],
        frames: int = 16,
        stride: int = 1,
        may_break: int = 0,
    ) -> None:
        self.reader, self.frames, self.stride, self.may_break = reader, frames, stride, may_break
        self.spans = spans if isinstance(spans, Spans) else Spans.of(spans)
        lengths, strides = self.spans.columns[:, 0], self.spans.columns[:, 3]
        if len(odd := strides[stride % strides != 0]):
            raise ValueError(
                f"{reader.place} holds every {odd[0]}th frame, which stride {stride} is no "
                "multiple of: change --data.stride or encode again."
            )
        # of each span: at how many frames a clip may start, and how many clips there are
        self._room = np.maximum(lengths - extent(frames, stride // strides) + 1, 0)
        self._windows = np.cumsum(count_starts(self._room, frames, stride // strides))
        long = np.flatnonzero(self._room)
        _, firsts = np.unique(self.spans.videos[long], return_index=True)
        self._firsts = np.append(long[firsts], len(self.spans))  # spans of the videos that count
        self.videos = len(firsts)
        # one flag per video, shared by all workers
        self.broken = torch.zeros(self.videos, dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return int(self._windows[-1]) if len(self._windows) else 0

    def places(self) -> np.ndarray:
        """Say where the reader finds each video."""
        return self.spans.columns[self._firsts[:-1], 4]

    def keys(self) -> list[str]:
        return [span.key(first) for _, span, first in map(self._window, range(len(self)))]

    def _window(self, index: int) -> tuple[int, FrameSpan, int]:
        """Return the number of a clip's video, the span of it, and where the clip begins there."""
        place = int(np.searchsorted(self._windows, index, side="right"))
        before = int(self._windows[place - 1]) if place else 0
        span = self.spans[place]
        starts = every_start(span.frames, self.frames, stride=self.stride // span.stride)
        video = int(np.searchsorted(self._firsts, place, side="right")) - 1
        return video, span, starts[index - before]

    def draw(self, video: int, seed: int, epoch: int, index: int) -> tuple[int, FrameSpan, int]:
        """Draw a clip of a video as `_window` returns it."""
        first, end = self._firsts[video : video + 2].tolist()
        room = np.cumsum(self._room[first:end])  # starts up to and with each span
        start = draw(int(room[-1]), seed=seed, epoch=epoch, index=index)
        place = int(np.searchsorted(room, start, side="right"))
        return video, self.spans[first + place], start - int(room[place - 1] if place else 0)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"Clip {index} of {len(self)}.")
        others = range(index, index + len(self))
        return self.first_readable(self._window(other % len(self)) for other in others)

    def first_readable(self, windows: Iterable[tuple[int, FrameSpan, int]]) -> dict[str, Any]:
        """Read the first of several clips whose video is not broken."""
        for number, span, first in windows:
            if not self.broken[number]:
                try:
                    step = self.stride // span.stride
                    clip = self.reader.read(span, first, self.frames, step=step)
                except BrokenData:
                    raise
                except (ValueError, OSError) as error:
                    self._set_aside(number, error)
                    continue
                label = torch.tensor(span.label)
                return {self.reader.name: clip, "label": label, "key": span.key(first)}
        raise BrokenData(f"No video under {self.reader.place} can be read: check the data folder.")

    def _set_aside(self, number: int, error: Exception) -> None:
        self.broken[number] = True
        broken = int(self.broken.sum())
        if broken > self.may_break:
            raise BrokenData(
                f"{broken} of {self.videos} videos under {self.reader.place} broke since "
                f"they were counted, the last one: {error} Repair them or raise "
                "--data.max_broken."
            ) from error
        logger.warning("Skipped a video from now on: %s", error)


class RandomWindows(Dataset[dict[str, Any]]):
    """Random clips of every video, other ones in every epoch.

    An index `(epoch, i)`, as `EpochBatches` gives it, always names the same clip; with a plain
    index `i` torch's default generator draws one.
    """

    def __init__(self, every: EveryWindow, clips_per_video: int = 1, seed: int = 0) -> None:
        self.every, self.clips_per_video, self.seed = every, clips_per_video, seed

    def __len__(self) -> int:
        return self.every.videos * self.clips_per_video

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        if not isinstance(index, tuple):
            index = (int(torch.randint(2**62, ())), index)
        epoch, index = index
        if not 0 <= index < len(self):
            raise IndexError(f"Clip {index} of {len(self)}.")
        others = range(index, index + self.every.videos)
        return self.every.first_readable(
            self.every.draw(other % self.every.videos, seed=self.seed, epoch=epoch, index=other)
            for other in others
        )
