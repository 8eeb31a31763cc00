"""Windows of frames: which frames of a video make a clip, and data sets of such clips.

The same data sets serve videos and latents: what differs is the reader, of files or of a cache.
"""

import hashlib
import logging
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

logger = logging.getLogger(__name__)


class FrameSpan(NamedTuple):
    """Frames of a video that follow each other, `stride` apart: a whole file, or cached ones."""

    path: str
    frames: int
    label: int = -1
    start: int = 0
    stride: int = 1

    def key(self, first: int) -> str:
        """Name the clip that starts at one of the frames, by its place in the video."""
        return f"{self.path}:{self.start + first * self.stride}"


class Reader(Protocol):
    """What reads frames below a place, and under which name they stand in a sample."""

    name: str
    place: Path

    def read(self, span: FrameSpan, first: int, frames: int, step: int) -> Tensor:
        """Read every `step`th frame of a span from a first one on, (F, ...)."""
        ...


class BrokenData(ValueError):
    """Data that cannot be gone on with; one sentence even when a worker process raised it."""

    def __init__(self, message: str) -> None:
        # DataLoader rebuilds a worker's error from its traceback, which ends with the sentence
        super().__init__(message.strip().rsplit("BrokenData: ", maxsplit=1)[-1])


def extent(frames: int, stride: int) -> int:
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
        long = [span for span in spans if self.starts(span) > 0]
        self.videos = [list(found) for _, found in groupby(long, key=lambda span: span.path)]
        # a video's number, a span of it and where a clip begins there
        self.windows = [
            (number, span, first)
            for number, spans in enumerate(self.videos)
            for span in spans
            for first in every_start(span.frames, frames, stride=self.step(span))
        ]
        # one flag per video, shared by all workers
        self.broken = torch.zeros(len(self.videos), dtype=torch.bool).share_memory_()

    def step(self, span: FrameSpan) -> int:
        """Return the step between two frames of a clip in frames of a span."""
        step, rest = divmod(self.stride, span.stride)
        if rest:
            raise ValueError(
                f"{self.reader.place} holds every {span.stride}th frame, which stride "
                f"{self.stride} is no multiple of: change --data.stride or encode again."
            )
        return step

    def starts(self, span: FrameSpan) -> int:
        """Count the frames of a span at which a clip may start."""
        return span.frames - extent(self.frames, self.step(span)) + 1

    def __len__(self) -> int:
        return len(self.windows)

    def keys(self) -> list[str]:
        return [span.key(first) for _, span, first in self.windows]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"Clip {index} of {len(self)}.")
        return self.first_readable(
            self.windows[i % len(self)] for i in range(index, index + len(self))
        )

    def first_readable(self, windows: Iterable[tuple[int, FrameSpan, int]]) -> dict[str, Any]:
        """Read the first of several clips whose video is not broken."""
        for number, span, first in windows:
            if not self.broken[number]:
                try:
                    clip = self.reader.read(span, first, self.frames, step=self.step(span))
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
                f"{broken} of {len(self.videos)} videos under {self.reader.place} broke since "
                f"they were counted, the last one: {error} Repair them or raise "
                "--data.max_broken."
            ) from error
        logger.warning("Skipped a video from now on: %s", error)


class RandomWindows(Dataset[dict[str, Any]]):
    """Random clips of every video, other ones in every epoch.

    An index `(epoch, i)`, as `EpochBatches` gives it, always names the same clip; with a plain
    index `i` torch's default generator draws one.

    Args:
        every: The videos, and how long a clip is.
        clips_per_video: Clips of each video in one epoch.
        seed: Seed of the draws.
    """

    def __init__(self, every: EveryWindow, clips_per_video: int = 1, seed: int = 0) -> None:
        self.every, self.clips_per_video, self.seed = every, clips_per_video, seed

    def __len__(self) -> int:
        return len(self.every.videos) * self.clips_per_video

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        if not isinstance(index, tuple):
            index = (int(torch.randint(2**62, ())), index)
        epoch, index = index
        if not 0 <= index < len(self):
            raise IndexError(f"Clip {index} of {len(self)}.")
        others = range(index, index + len(self.every.videos))
        return self.every.first_readable(self._draw(epoch, other) for other in others)

    def _draw(self, epoch: int, index: int) -> tuple[int, FrameSpan, int]:
        number = index % len(self.every.videos)
        spans = self.every.videos[number]
        room = list(accumulate(map(self.every.starts, spans)))  # starts up to and with each span
        start = draw(room[-1], seed=self.seed, epoch=epoch, index=index)
        place = bisect_right(room, start)
        return number, spans[place], start - (room[place] - self.every.starts(spans[place]))
