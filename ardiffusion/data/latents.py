"""Datasets that read clips from a latent cache.

The encoder looks at each frame alone, so the clips of one video that follow each other join into
one run of frames, and a clip may start at any frame of it, whatever the clips that were encoded.
"""

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, TypedDict

import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import Dataset

from ardiffusion.data.cache import Index, read_index, read_shards, shard_keys
from ardiffusion.data.windows import draw, every_start, fresh_epoch, span


class LatentSample(TypedDict):
    """One clip: float32 latents (F, L, C), class index or -1, "path:start"."""

    latents: Tensor
    label: Tensor
    key: str


class Segment(NamedTuple):
    """Consecutive rows of one cached clip."""

    shard: str
    clip: int
    first: int
    rows: int


class Run:
    """Cached frames of a video that follow each other without a gap."""

    def __init__(self, path: str, start: int, stride: int, segments: list[Segment]) -> None:
        self.path, self.start, self.stride = path, start, stride
        self.segments = segments
        self.ends = list(accumulate(segment.rows for segment in segments))

    def __len__(self) -> int:
        return self.ends[-1]

    def pieces(self, first: int, rows: int) -> list[Segment]:
        """Find the rows of a window in the shards."""
        found: list[Segment] = []
        number = bisect_right(self.ends, first)
        while rows > 0:
            segment = self.segments[number]
            skip = first - (self.ends[number] - segment.rows)
            take = min(rows, segment.rows - skip)
            found.append(segment._replace(first=segment.first + skip, rows=take))
            first, rows, number = first + take, rows - take, number + 1
        return found


def join_clips(
    path: str, clips: list[tuple[int, str, int]], frames: int, stride: int
) -> list[Run]:
    """Join cached clips `(start, shard, number in the shard)` of a video into runs."""
    runs: list[Run] = []
    begun, after, segments = 0, -1, []
    for start, shard, clip in sorted(clips, key=lambda c: (c[0] % stride, c[0])):
        known = (after - start) // stride  # rows that the run holds already
        if segments and (after - start) % stride == 0 and 0 <= known:
            if known < frames:
                segments.append(Segment(shard, clip, known, frames - known))
                after = start + frames * stride
            continue
        if segments:
            runs.append(Run(path, begun, stride, segments))
        begun, after, segments = start, start + frames * stride, [Segment(shard, clip, 0, frames)]
    return [*runs, Run(path, begun, stride, segments)] if segments else runs


def open_cache(path: str | Path, fingerprint: str | None = None) -> Index:
    """Read the index of a finished cache and refuse any other.

    Args:
        path: Folder of the cache.
        fingerprint: Fingerprint of the AR-VAE that will decode the latents, unchecked if None.
    """
    index = read_index(path)
    theirs = index["origin"]["fingerprint"]
    if fingerprint is not None and fingerprint != theirs:
        raise ValueError(
            f"Latent cache {path} comes from another AR-VAE ({theirs}, and this one is "
            f"{fingerprint}): encode again with `ardiff-vae predict`."
        )
    if not index["complete"]:
        clips = sum(map(len, read_shards(path).values()))
        raise ValueError(
            f"Latent cache {path} is half written ({clips} clips so far): run the same "
            "`ardiff-vae predict` again to finish it."
        )
    for shard, keys in index["shards"].items():
        if shard_keys(Path(path) / shard) != keys:
            raise ValueError(
                f"Shard {shard} of latent cache {path} is not the one its index describes: run "
                "the same `ardiff-vae predict` again."
            )
    return index


def read_runs(index: Index, split: str) -> dict[str, list[Run]]:
    """Find the runs of each video of a split."""
    clips: dict[str, list[tuple[int, str, int]]] = {path: [] for path in index["splits"][split]}
    for shard, keys in index["shards"].items():
        for number, key in enumerate(keys):
            path, start = key.rsplit(":", maxsplit=1)
            if path in clips:
                clips[path].append((int(start), shard, number))
    origin = index["origin"]
    return {
        path: join_clips(path, found, frames=origin["frames"], stride=origin["stride"])
        for path, found in clips.items()
    }


class LatentDataset(Dataset[LatentSample]):
    """Every clip of a split of a latent cache: clips that follow each other, and a last one.

    Args:
        path: Folder of the cache.
        frames: Frames per clip.
        stride: Step between two frames in frames of the video, a multiple of the cache's stride,
            which is the default.
        split: Which videos: "train", "val" or "test".
        fingerprint: Fingerprint of the AR-VAE that will decode the latents, unchecked if None.
    """

    def __init__(
        self,
        path: str | Path,
        frames: int = 16,
        stride: int | None = None,
        split: str = "train",
        fingerprint: str | None = None,
    ) -> None:
        self.path, self.frames = Path(path), frames
        index = open_cache(path, fingerprint=fingerprint)
        cached = index["origin"]["stride"]
        self.step, rest = divmod(cached if stride is None else stride, cached)
        if rest or self.step < 1:
            raise ValueError(
                f"Latent cache {path} holds every {cached}th frame, which stride {stride} is no "
                "multiple of: change --data.stride or encode again."
            )
        self.labels = index["labels"]
        self.rows = span(frames, self.step)
        found = read_runs(index, split).values()
        long = [[run for run in runs if len(run) >= self.rows] for runs in found]
        self.videos = [runs for runs in long if runs]
        if index["splits"][split] and not self.videos:
            raise ValueError(
                f"No video of the {split} split in latent cache {path} has {self.rows} frames in "
                "a row: lower --data.frames or --data.stride."
            )
        self.clips = [
            (run, first)
            for runs in self.videos
            for run in runs
            for first in every_start(len(run), frames=frames, stride=self.step)
        ]
        self._shards: dict[str, safe_open] = {}  # opened when first read, by each process

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_shards": {}}

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> LatentSample:
        return self._read(*self.clips[index])

    def _read(self, run: Run, first: int) -> LatentSample:
        pieces: list[Tensor] = []
        for shard, clip, row, rows in run.pieces(first, self.rows):
            if shard not in self._shards:
                self._shards[shard] = safe_open(self.path / shard, framework="pt")
            stored = self._shards[shard].get_slice("latents")
            pieces.append(stored[clip, row : row + rows])  # (rows, L, C)
        return {
            "latents": torch.cat(pieces)[:: self.step].contiguous(),  # (F, L, C)
            "label": torch.tensor(self.labels[run.path]),
            "key": f"{run.path}:{run.start + first * run.stride}",
        }


class RandomLatentDataset(LatentDataset):
    """Random clips of every video of a latent cache, other ones in every epoch.

    Args:
        path: Folder of the cache.
        frames: Frames per clip.
        stride: Step between two frames in frames of the video, a multiple of the cache's stride,
            which is the default.
        split: Which videos: "train", "val" or "test".
        fingerprint: Fingerprint of the AR-VAE that will decode the latents, unchecked if None.
        clips_per_video: Clips of each video in one epoch.
        seed: Seed of the draws.
    """

    def __init__(
        self,
        path: str | Path,
        frames: int = 16,
        stride: int | None = None,
        split: str = "train",
        fingerprint: str | None = None,
        clips_per_video: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(path, frames, stride=stride, split=split, fingerprint=fingerprint)
        self.clips_per_video, self.seed = clips_per_video, seed

    def __len__(self) -> int:
        return len(self.videos) * self.clips_per_video

    def __getitem__(self, index: int | tuple[int, int]) -> LatentSample:
        epoch, index = index if isinstance(index, tuple) else (fresh_epoch(), index)
        if not 0 <= index < len(self):
            raise IndexError(f"Clip {index} of {len(self)}.")
        runs = self.videos[index % len(self.videos)]
        room = [len(run) - self.rows + 1 for run in runs]
        first = draw(sum(room), seed=self.seed, epoch=epoch, index=index)
        number = bisect_right(list(accumulate(room)), first)
        return self._read(runs[number], first - sum(room[:number]))
