"""Clips of a latent cache.

The encoder looks at each frame alone, so the clips of one video that follow each other join into
one span of frames, and a clip may start at any frame of it, whatever the clips that were encoded.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ardiffusion.data.cache import open_cache, read_finished
from ardiffusion.data.chunks import LATENTS, ChunkFolder, in_chunks, list_places
from ardiffusion.data.spans import FrameSpan, Spans
from ardiffusion.data.storage import litdata, locate
from ardiffusion.data.windows import BrokenData, extent


def join_clips(clips: np.ndarray, frames: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort clips so that those follow each other that leave no gap; say where each span begins."""
    start = clips["start"]
    clips = clips[np.lexsort((start, start % stride, clips["video"]))]
    ahead, rest = np.divmod(np.diff(clips["start"]), stride)
    gap = (np.diff(clips["video"]) != 0) | (rest != 0) | (ahead > frames)
    return clips, np.flatnonzero(np.append(True, gap)[: len(clips)])


def find_rows(
    span: np.ndarray, first: int, rows: int, frames: int, stride: int
) -> Iterator[tuple[int, int, int, int]]:
    """Find the rows of a window: shards, numbers of clips in them, first rows, and how many."""
    frame = int(span["start"][0]) + first * stride  # of the video
    while rows > 0:
        clip = span[np.searchsorted(span["start"], frame, side="right") - 1]
        row = (frame - int(clip["start"])) // stride
        take = min(rows, frames - row)
        yield int(clip["shard"]), int(clip["number"]), row, take
        frame, rows = frame + take * stride, rows - take


class ShardFolder:
    """Reads latents from the shards of a finished cache."""

    kept = None  # all shards are there

    def __init__(self, place: str | Path, checked: bool = False) -> None:
        self.place = Path(place)
        self.index = read_finished(self.place) if checked else open_cache(self.place)
        self._names = list(self.index["shards"])
        self._open: dict[int, safe_open] = {}  # when first read, by each process

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}

    def read(self, shard: int, number: int, first: int, rows: int) -> Tensor:
        """Read rows of the latents of a clip, by the number of its shard and its own in that."""
        name = self._names[shard]
        try:
            if shard not in self._open:
                self._open[shard] = safe_open(self.place / name, framework="pt")
            stored = self._open[shard].get_slice("latents")
            return stored[number, first : first + rows]  # (rows, L, C)
        except (OSError, SafetensorError) as error:
            raise BrokenData(
                f"Shard {name} of latent cache {self.place} cannot be read any more "
                f"({error}): run the same `ardiff-vae predict` again."
            ) from error


class LatentChunks(ChunkFolder):
    """Reads latents from chunks."""

    kind = LATENTS

    def read(self, shard: int, number: int, first: int, rows: int) -> Tensor:
        """Read rows of the latents of a clip, by the number of its chunk and its own in that."""
        stored = bytearray(self.item(shard, number)["latents"])
        return litdata("serializers").TensorSerializer().deserialize(stored)[first : first + rows]


class LatentCache:
    """Reads clips of a finished latent cache, float32 (F, L, C).

    Args:
        path: Folder of the cache, or its address in object storage.
        cache: Folder for what is fetched from object storage.
        room: Bytes that may lie there.
        checked: Whether somebody else has compared the shards with the index just now.

    Attributes:
        index: What the cache says of itself.
        clips: Where each is, those of a video one after the other.
        spans: Of each split, the cached frames that follow each other.
    """

    name = "latents"

    def __init__(
        self,
        path: str | Path,
        cache: str | Path | None = None,
        room: float = 50e9,
        checked: bool = False,
    ) -> None:
        place = locate(str(path))
        if in_chunks(place, LATENTS):
            self.store = LatentChunks(place, cache, room)
        else:
            self.store = ShardFolder(place, checked)
        self.place, self.index, self.kept = self.store.place, self.store.index, self.store.kept
        self.origin = self.index["origin"]
        sizes = (self.origin["frames"], self.origin["stride"])
        self.clips, self._firsts = join_clips(list_places(self.index["shards"]), *sizes)
        self.spans = self._list_spans()

    def _list_spans(self) -> dict[str, Spans]:
        """List the frames of each split that follow each other."""
        frames, stride, starts = self.origin["frames"], self.origin["stride"], self.clips["start"]
        start, last = starts[self._firsts], starts[np.append(self._firsts, len(starts))[1:] - 1]
        videos = self.clips["video"][self._firsts]
        label = np.array(self.index["labels"], np.int64)[videos]
        rows, steps = (last - start) // stride + frames, np.full(len(start), stride)
        columns = np.stack([rows, label, start, steps, self._firsts], axis=1)
        spans, paths = dict[str, Spans](), np.array(self.index["paths"], object)
        for name, numbers in self.index["splits"].items():
            turns = np.full(len(paths), -1)
            turns[np.array(numbers, np.int64)] = np.arange(len(numbers))
            chosen = np.flatnonzero(turns[videos] >= 0)
            chosen = chosen[np.argsort(turns[videos[chosen]], kind="stable")]
            spans[name] = Spans(paths[videos[chosen]], columns[chosen])
        return spans

    def read(self, span: FrameSpan, first: int, frames: int, step: int) -> Tensor:
        """Read a clip of cached frames."""
        pieces: list[Tensor] = []
        rows, sizes = extent(frames, step), (self.origin["frames"], span.stride)
        after = np.searchsorted(self._firsts, span.place, side="right")
        clips = self.clips[span.place : (*self._firsts[after : after + 1], None)[0]]
        for place, number, row, take in find_rows(clips, first, rows, *sizes):
            pieces.append(self.store.read(place, number, row, take))
        return torch.cat(pieces)[::step].contiguous()  # (F, L, C)

    def every_clip(self) -> Iterator[tuple[int, int, Tensor]]:
        """Read all clips in the order of `clips`: number of the video, start, latents."""
        for video, start, shard, number in self.clips.tolist():
            yield video, start, self.store.read(shard, number, 0, self.origin["frames"])

    def chunk_of(self, places: np.ndarray) -> np.ndarray:
        """Say in which shards or chunks places are."""
        return self.clips["shard"][places]

    def check_fingerprint(self, fingerprint: str) -> None:
        """Refuse to be decoded by another AR-VAE than the one that encoded."""
        theirs = self.index["origin"]["fingerprint"]
        if fingerprint != theirs:
            raise ValueError(
                f"Latent cache {self.place} comes from another AR-VAE ({theirs}, and this one is "
                f"{fingerprint}): encode again with `ardiff-vae predict`."
            )
