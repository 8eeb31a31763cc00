"""Clips of a latent cache.

The encoder looks at each frame alone, so the clips of one video that follow each other join into
one span of frames, and a clip may start at any frame of it, whatever the clips that were encoded.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ardiffusion.data.cache import open_cache, split_key
from ardiffusion.data.spans import FrameSpan, Spans
from ardiffusion.data.windows import BrokenData, extent


class Place(NamedTuple):
    """Where a clip is: its first frame in the video, its shard, and its number there."""

    start: int
    shard: str
    number: int


def join_clips(clips: list[Place], frames: int, stride: int) -> list[list[Place]]:
    """Gather the clips of a video that leave no gap between them."""
    spans: list[list[Place]] = []
    for clip in sorted(clips, key=lambda clip: (clip.start % stride, clip.start)):
        ahead, rest = divmod(clip.start - spans[-1][-1].start, stride) if spans else (0, 1)
        if rest or ahead > frames:
            spans.append([])
        spans[-1].append(clip)
    return spans


def find_rows(
    span: list[Place], first: int, rows: int, frames: int, stride: int
) -> Iterator[tuple[str, int, int, int]]:
    """Find the rows of a window: shards, numbers of clips in them, first rows, and how many."""
    frame = span[0].start + first * stride  # of the video
    while rows > 0:
        clip = span[bisect_right(span, frame, key=lambda clip: clip.start) - 1]
        row = (frame - clip.start) // stride
        take = min(rows, frames - row)
        yield clip.shard, clip.number, row, take
        frame, rows = frame + take * stride, rows - take


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
        self.place = Path(path).expanduser()
        self.index = open_cache(self.place)
        self.origin = self.index["origin"]
        self._clips: dict[FrameSpan, list[Place]] = {}
        self._shards: dict[str, safe_open] = {}  # opened when first read, by each process
        found = self._join()
        self.spans = {
            name: Spans.of(span for path in paths for span in found[path])
            for name, paths in self.index["splits"].items()
        }

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_shards": {}}

    def _join(self) -> dict[str, list[FrameSpan]]:
        """Find the frames of each video that follow each other, and where they are."""
        frames, stride = self.origin["frames"], self.origin["stride"]
        clips: dict[str, list[Place]] = defaultdict(list)
        for shard, keys in self.index["shards"].items():
            for number, key in enumerate(keys):
                path, start = split_key(key)
                clips[path].append(Place(int(start), shard, number))
        found: dict[str, list[FrameSpan]] = defaultdict(list)
        for path, label in self.index["labels"].items():
            for places in join_clips(clips[path], frames=frames, stride=stride):
                start, rows = places[0].start, (places[-1].start - places[0].start) // stride
                span = FrameSpan(path, rows + frames, label, start=start, stride=stride)
                self._clips[span] = places
                found[path].append(span)
        return found

    def read(self, span: FrameSpan, first: int, frames: int, step: int) -> Tensor:
        """Read a clip of cached frames."""
        pieces: list[Tensor] = []
        rows, sizes = extent(frames, step), (self.origin["frames"], span.stride)
        for shard, number, row, take in find_rows(self._clips[span], first, rows, *sizes):
            try:
                if shard not in self._shards:
                    self._shards[shard] = safe_open(self.place / shard, framework="pt")
                stored = self._shards[shard].get_slice("latents")
                pieces.append(stored[number, row : row + take])  # (rows, L, C)
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
