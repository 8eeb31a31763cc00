"""Features of the clips of a folder, shared among processes and kept on disk.

Clips are described in chunks of eight that do not depend on how many processes share the work or
what was kept from earlier runs, and come back in their order, so that neither changes a score.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ardiffusion.metrics.features import check_finite
from ardiffusion.metrics.parallel import full_precision, gather_parts, in_threads, rank_and_world
from ardiffusion.metrics.protocol import Clip, Protocol
from ardiffusion.metrics.store import Chunk, FeatureStore

CHUNK = 8
FRAMES_AT_ONCE = 128  # that go through the network together
READERS = 8


@dataclass(frozen=True)
class Videos:
    """One side of a comparison.

    Clips may be `made` when they are read, as samples of a network that trains: then each is asked
    for once, in order and in the caller's thread, and nothing is kept.
    """

    name: str  # its folder, or what else to call it
    names: Sequence[str]  # of the videos
    lengths: Sequence[int]  # frames of each video
    stamp: Callable[[int], str]  # says what changes with the content of a video
    read: Callable[[Clip], Tensor]  # returns a clip, uint8 (F, 3, H, W)
    identity: dict[str, Any]  # what else the frames depend on, like a folder and a resolution
    made: bool = False

    def clip_keys(self, clips: Sequence[Clip]) -> list[str]:
        """Name clips by their video, what its content is known by, and their start."""
        stamps = {video: self.stamp(video) for video in {clip.video for clip in clips}}
        return [f"{self.names[c.video]}:{stamps[c.video]}:{c.start}" for c in clips]

    def clip_names(self, clips: Sequence[Clip]) -> list[str]:
        """Name clips for people."""
        return [f"{self.name}, {self.names[clip.video]}, frame {clip.start} on" for clip in clips]


def own_chunks(clips: Sequence[Clip]) -> dict[int, Sequence[Clip]]:
    """Cut clips into chunks, and return by their numbers those that are this process's share."""
    rank, world = rank_and_world()
    chunks = [clips[start : start + CHUNK] for start in range(0, len(clips), CHUNK)]
    return {number: chunks[number] for number in range(rank, len(chunks), world)}


def extract_features(
    protocol: Protocol,
    videos: Videos,
    clips: list[Clip],
    cache: str | Path | None = None,
    device: torch.device | str = "cpu",
    advance: Callable[[int], object] = lambda clips: None,
) -> Chunk:
    """Return the features of clips, from the cache where they are there; processes share the work.

    `advance` is told how many clips have been described since it was told last.
    """
    store = None
    if cache is not None and not videos.made:
        identity = videos.identity | protocol.preparation()
        store = FeatureStore(cache, name=Path(videos.name).name, identity=identity)
    found: dict[int, Chunk] = {}
    missing: dict[int, Sequence[Clip]] = {}
    shares = own_chunks(clips)
    keys = {number: videos.clip_keys(share) for number, share in shares.items()} if store else {}
    for number, share in shares.items():
        chunk = store and store.load(keys[number])
        if chunk is None:
            missing[number] = share
        else:
            found[number] = chunk
            advance(len(share))
    for number, prepared in prepared_chunks(protocol, videos, missing):
        found[number] = embed_chunk(protocol, prepared, device=device)
        names = videos.clip_names(missing[number])
        check_finite(found[number].rows, network=protocol.extractor, videos=names)
        if store is not None:
            store.save(keys[number], found[number])
        advance(len(missing[number]))
    return join_chunks(videos, gather_parts(found))


def prepared_chunks(
    protocol: Protocol, videos: Videos, chunks: dict[int, Sequence[Clip]]
) -> Iterator[tuple[int, Chunk]]:
    """Read and prepare the clips of chunks in threads, one chunk ahead of what is asked for."""
    prepare = partial(prepare_clip, protocol, videos)
    if videos.made:
        for number, clips in chunks.items():
            yield number, join_chunks(videos, list(map(prepare, clips)))
        return
    with ThreadPoolExecutor(READERS) as pool:
        begun = ((n, [pool.submit(prepare, clip) for clip in c]) for n, c in chunks.items())
        chunk = next(begun, None)
        while chunk is not None:
            number, futures = chunk
            chunk = next(begun, None)
            yield number, join_chunks(videos, [future.result() for future in futures])


def prepare_clip(protocol: Protocol, videos: Videos, clip: Clip) -> Chunk:
    """Read a clip, and prepare it for the network."""
    video = videos.read(clip)
    check_clip(video, name=videos.name, frames=protocol.frames)
    size = video.shape[-2], video.shape[-1]
    return Chunk(protocol.prepare(video[None]), highest=int(video.max()), size=size)


def join_chunks(videos: Videos, chunks: list[Chunk]) -> Chunk:
    """Make one of chunks, whose frames must all have one size."""
    for chunk in chunks[1:]:
        check_size(videos.name, chunks[0].size, videos.name, chunk.size)
    rows = torch.cat([chunk.rows for chunk in chunks])
    return Chunk(rows, highest=max(chunk.highest for chunk in chunks), size=chunks[0].size)


def embed_chunk(protocol: Protocol, prepared: Chunk, device: torch.device | str) -> Chunk:
    """Describe the clips of a chunk, in full float32."""
    place = torch.device(device)
    network = protocol.extractor.eval().to(place)

    @torch.no_grad()
    def describe(batch: Tensor) -> Tensor:
        return network(batch.to(place)).float().cpu()

    with full_precision(place):  # threads that start within it have no autocast of their own
        if place.type == "cpu":
            parts = in_threads(describe, prepared.rows.split(1))
        else:
            batch = max(FRAMES_AT_ONCE // protocol.frames, 1)
            parts = [describe(video) for video in prepared.rows.split(batch)]
    return prepared._replace(rows=torch.cat(parts))


def check_clip(video: Tensor, name: str, frames: int) -> None:
    if video.dtype != torch.uint8 or video.ndim != 4 or video.shape[:2] != (frames, 3):
        raise ValueError(
            f"{name} gives clips of {video.dtype} and shape {tuple(video.shape)}, but the "
            f"distance is of uint8 clips (F, 3, H, W) of {frames} frames with values from 0 to "
            "255; convert them first."
        )


def check_size(one: str, size: tuple[int, int], other: str, others: tuple[int, int]) -> None:
    if size != others:
        folders = one if one == other else f"{one} and {other}"
        raise ValueError(
            f"The frames of {folders} differ in size ({size[1]} x {size[0]} and {others[1]} x "
            f"{others[0]} pixels); give a --resolution that all are scaled and cropped to."
        )
