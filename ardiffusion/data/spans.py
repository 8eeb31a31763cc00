"""Spans of frames as arrays: a million of them cost 80 bytes and no time each.

Workers share arrays. Of lists each process would make a copy by and by, as Python counts in every
object who uses it.
"""

import os
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np


class FrameSpan(NamedTuple):
    """Frames of a video that follow each other, `stride` apart: a whole file, or cached ones.

    `place` is where its reader finds it.
    """

    path: str
    frames: int
    label: int = -1
    start: int = 0
    stride: int = 1
    place: int = 0

    def key(self, first: int) -> str:
        """Name the clip that starts at one of the frames, by its place in the video."""
        return f"{self.path}:{self.start + first * self.stride}"


class Spans:
    """A sequence of spans; those of one video follow each other.

    Args:
        paths: Path of the video of each span.
        columns: Frames, label, start, stride and place of each, int64 (N, 5).
    """

    def __init__(self, paths: Iterable[str], columns: np.ndarray) -> None:
        names = list(paths)
        self._names = np.frombuffer(os.fsencode("\0".join([*names, ""])), np.uint8)
        self._ends = np.flatnonzero(self._names == 0)[: len(names)]  # no path holds a zero
        self.columns = columns
        other = [one != two for one, two in pairwise(names)]
        self.videos = np.cumsum([0, *other][: len(names)])  # number of the video of each

    @classmethod
    def of(cls, spans: Iterable[FrameSpan]) -> "Spans":
        listed = list(spans)
        columns = np.array([span[1:] for span in listed], np.int64).reshape(-1, 5)
        return cls([span.path for span in listed], columns)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> FrameSpan:
        end = self._ends[index]  # an IndexError ends a loop
        name = self._names[self._ends[index - 1] + 1 if index else 0 : end].tobytes()
        return FrameSpan(os.fsdecode(name), *self.columns[index].tolist())

    def __iter__(self) -> Iterator[FrameSpan]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Iterable) and list(self) == list(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType]
