"""A folder of videos or of pictures: what is known of it, and clips of it or of their latents."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ardiffusion.data.cache_index import INDEX
from ardiffusion.data.catalog import (
    GONE,
    Catalog,
    SplitRule,
    read_catalog,
    rename_classes,
    usable_videos,
)
from ardiffusion.data.chunks import VIDEOS, in_chunks
from ardiffusion.data.clips import VideoFiles
from ardiffusion.data.index import Counts, index_clips
from ardiffusion.data.latents import LatentCache
from ardiffusion.data.layouts import Entry, find_clips, find_pictures
from ardiffusion.data.spans import Spans
from ardiffusion.data.splits import NAMES
from ardiffusion.data.storage import below
from ardiffusion.data.video_chunks import StreamedVideos, VideoChunks
from ardiffusion.data.windows import EveryWindow, Reader, extent

IMAGES = "images"


@dataclass
class Footage:
    """The videos of a folder; its pictures, if these are found, are videos of one frame."""

    rule: SplitRule  # the folder, and how its videos are split
    frames: int = 16  # per clip
    stride: int = 1  # between two frames of a clip
    resolution: int | None = None  # of the clips; that of the latents, or 256, by default
    max_broken: float = 0.05  # fraction of broken, empty or too short videos that is skipped
    cache: str | None = None  # folder for the index and for what comes from object storage
    latents: str | Path | None = None  # folder or address of a latent cache to read from
    part: str = ""  # where the latents are in that folder
    find: Callable[[Path], list[Entry]] = find_clips  # lists the videos
    room: float = 50e9  # bytes of videos, and of latents, from object storage to keep in `cache`
    beside: "Footage | None" = None  # the videos that go with pictures and have their classes
    checked: bool = False  # whether another process has just compared latents with their hashes

    @cached_property
    def latent_cache(self) -> LatentCache | None:
        """The latent cache, once it is known that no option contradicts it."""
        if self.latents is None:
            return None
        place = below(self.latents, self.part)
        found = LatentCache(place, self.cache, self.room, checked=self.checked)
        theirs = found.origin["resolution"]
        if self.resolution not in (None, theirs):
            raise ValueError(
                f"--data.resolution is {self.resolution}, but latent cache {found.place} holds "
                f"videos of {theirs} x {theirs}: leave it out or encode again."
            )
        self.rule.check(found.index, source=f"latent cache {found.place}")
        return found

    @property
    def side(self) -> int:
        """Height and width of the clips."""
        cached = self.latent_cache
        return cached.origin["resolution"] if cached else self.resolution or 256

    @cached_property
    def catalog(self) -> Catalog:
        """What is known of the videos: from the latent cache, or by looking at them."""
        cached, need = self.latent_cache, extent(self.frames, self.stride)
        if cached:
            found = cached.index
        else:
            entries, counts = self.chunks.survey() if self.chunks else self._survey()
            found = read_catalog(self.rule, entries, counts, need, self.max_broken)
        if self.beside is None:
            return found
        place = cached.place if cached else self.rule.root
        named = rename_classes(found, names=self.beside.catalog["classes"], place=place)
        if cached and named["labels"] != found["labels"]:
            raise ValueError(
                f"Latent cache {place} was written with other classes than its videos have: run "
                "the same `ardiff-vae predict` again, which encodes nothing anew."
            )
        return named

    @cached_property
    def videos(self) -> dict[str, Spans]:
        """The usable videos of each split, from their first frame to their last."""
        found = usable_videos(self.catalog)
        return {name: self._in_turn(videos) for name, videos in found.items()}

    def _in_turn(self, videos: Spans) -> Spans:
        chunks = self.chunks if self.latents is None else None
        return chunks.in_turn(videos) if chunks else videos

    def _survey(self) -> tuple[list[Entry], Counts]:
        """Look at every video that is found."""
        root = Path(self.rule.root)
        entries = self.find(root)
        return entries, index_clips(root, [entry.path for entry in entries], cache=self.cache)

    @cached_property
    def chunks(self) -> VideoChunks | None:
        """The chunks that hold the videos, if these are not files."""
        root = self.rule.root
        return VideoChunks(root, self.cache, self.room) if in_chunks(root, VIDEOS) else None

    @property
    def files(self) -> VideoFiles:
        if self.chunks:
            return StreamedVideos(self.chunks, self.side, self.cache)
        return VideoFiles(self.rule.root, resolution=self.side, cache=self.cache)

    def source(self, split: str) -> tuple[Reader, Spans]:
        """Return what batches are read from, and the frames of a split there."""
        cached = self.latent_cache
        return (cached, cached.spans[split]) if cached else (self.files, self.videos[split])

    def cut(self, reader: Reader, spans: Spans) -> EveryWindow:
        """Make a data set of every clip."""
        labels, lengths = self.catalog["labels"], self.catalog["lengths"]
        gone = labels.count(GONE)
        may_break = int(self.max_broken * (len(labels) - gone)) - (lengths.count(0) - gone)
        clips = EveryWindow(reader, spans, self.frames, self.stride, may_break=may_break)
        if spans and not clips.videos:
            raise ValueError(
                f"No video of this split under {reader.place} has the "
                f"{extent(self.frames, self.stride)} frames asked for in a row: lower "
                "--data.frames or --data.stride."
            )
        return clips

    def nearness(self, every: EveryWindow) -> tuple[Tensor, int] | None:
        """Say in which chunks videos are, and how many are kept, unless all of them are."""
        store = self.latent_cache or self.chunks
        if store is None or store.kept is None:
            return None
        return torch.from_numpy(store.chunk_of(every.places()).astype(np.int64)), store.kept

    def every(self) -> EveryWindow:
        """Make a data set of every clip of every video, be it in one split or in two."""
        videos = {video.path: video for name in NAMES for video in self.videos[name]}
        return self.cut(self.files, self._in_turn(Spans.of(videos.values())))


def with_pictures(videos: Footage, images: str | None, alone: bool) -> list[Footage]:
    """Return videos, or pictures, or first the one and then the other.

    `images` is the folder of the pictures, if one is named, and they may be `alone`, all there is;
    a folder of latents knows better.
    """
    cached = False
    if isinstance(videos.latents, Path):
        cached = (videos.latents / IMAGES / INDEX).exists()
        alone = cached and not (videos.latents / INDEX).exists()
    if images is None and not cached:
        return [videos]
    root = videos.rule.root if images is None else Path(images).expanduser()
    rule = videos.rule._replace(root=root) if alone else SplitRule(root, {}, {})
    beside = None if alone else videos
    pictures = replace(
        videos, rule=rule, frames=1, stride=1, part=IMAGES, find=find_pictures, beside=beside
    )
    return [pictures] if alone else [videos, pictures]
