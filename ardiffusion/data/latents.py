"""Clips of a latent cache.

The encoder looks at each frame alone, so the clips of one video that follow each other join into
one span of frames, and a clip may start at any frame of it, whatever the clips that were encoded.
"""

from bisect import bisect_right
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ardiffusion.data.cache import open_cache
from ardiffusion.data.windows import BrokenData, FrameSpan


class Segment(NamedTuple):
    """Consecutive rows of one cached clip, and how many rows of its span come before."""

    shard: str
    clip: int
    first: int
    rows: int
    before: int


def join_clips(
    clips: list[tuple[int, str, int]], frames: int, stride: int
) -> list[tuple[int, list[Segment]]]:
    """Join cached clips `(start, shard, number in the shard)` of a video.

    Returns:
        Where each span of frames starts in the video, and its segments.
    """
    spans: list[tuple[int, list[Segment]]] = []
    after = 0  # the next frame that the last span lacks
    for start, shard, clip in sorted(clips, key=lambda c: (c[0] % stride, c[0])):
        known, rest = divmod(after - start, stride)  # rows that the span holds already
        if not spans or rest or known < 0:
            spans.append((start, []))
            known, after = 0, start
        if known < frames:
            begun, segments = spans[-1]
            segments.append(
                Segment(shard, clip, known, frames - known, before=(after - begun) // stride)
            )
            after = start + frames * stride
    return spans


def cut(segments: list[Segment], first: int, rows: int) -> list[Segment]:
    """Find rows of a span in its segments."""
    found: list[Segment] = []
    number = bisect_right(segments, first, key=lambda segment: segment.before) - 1
    while rows > 0:
        segment = segments[number]
        skip = first - segment.before
        take = min(rows, segment.rows - skip)
        found.append(
            Segment(segment.shard, segment.clip, segment.first + skip, take, before=first)
        )
        first, rows, number = first + take, rows - take, number + 1
    return found


class LatentCache:
    """Reads clips of a finished latent cache, float32 (F, L, C).

    Args:
        path: Folder of the cache.

    Attributes:
        index: What the cache says of itself.
        spans: Of each split, the cached frames that follow each other.
    """

    name = "latents"

    def __init__(self, path: str | Path) -> None:
        self.place = Path(path)
        self.index = open_cache(path)
        self._segments: dict[FrameSpan, list[Segment]] = {}
        self._shards: dict[str, safe_open] = {}  # opened when first read, by each process
        found = self._join()
        self.spans = {
            name: [span for path in paths for span in found[path]]
            for name, paths in self.index["splits"].items()
        }

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_shards": {}}

    def _join(self) -> dict[str, list[FrameSpan]]:
        """Find the frames of each video that follow each other, and where they are."""
        clips: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
        for shard, keys in self.index["shards"].items():
            for number, key in enumerate(keys):
                path, start = key.rsplit(":", maxsplit=1)
                clips[path].append((int(start), shard, number))
        origin, found = self.index["origin"], defaultdict(list)
        for path, label in self.index["labels"].items():
            runs = join_clips(clips[path], frames=origin["frames"], stride=origin["stride"])
            for start, segments in runs:
                rows = segments[-1].before + segments[-1].rows
                span = FrameSpan(path, rows, label, start=start, stride=origin["stride"])
                self._segments[span] = segments
                found[path].append(span)
        return found

    def read(self, span: FrameSpan, first: int, frames: int, step: int) -> Tensor:
        """Read a clip of cached frames."""
        pieces: list[Tensor] = []
        for shard, clip, row, rows, _ in cut(self._segments[span], first, (frames - 1) * step + 1):
            try:
                if shard not in self._shards:
                    self._shards[shard] = safe_open(self.place / shard, framework="pt")
                stored = self._shards[shard].get_slice("latents")
                pieces.append(stored[clip, row : row + rows])  # (rows, L, C)
            except (OSError, SafetensorError) as error:
                raise BrokenData(
                    f"Shard {shard} of latent cache {self.place} cannot be read any more "
                    f"({error}): run the same `ardiff-vae predict` again."
                ) from error
        return torch.cat(pieces)[::step].contiguous()  # (F, L, C)

    def check_fingerprint(self, fingerprint: str) -> None:
        """Refuse to be decoded by another AR-VAE than the one that encoded."""
        theirs = self.index["origin"]["fingerprint"]
        if fingerprint != theirs:
            raise ValueError(
                f"Latent cache {self.place} comes from another AR-VAE ({theirs}, and this one is "
                f"{fingerprint}): encode again with `ardiff-vae predict`."
            )
