"""Features of the clips of a folder, shared among processes and kept on disk.

Clips are described in chunks of eight that do not depend on how many processes share the work or
what was kept from earlier runs, and come back in their order, so that neither changes a score.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ardiffusion.metrics.checks import check_clip, check_sizes
from ardiffusion.metrics.determinism import full_precision, in_threads
from ardiffusion.metrics.features import check_finite
from ardiffusion.metrics.processes import gather_parts, rank_and_world
from ardiffusion.metrics.protocol import Clip, Protocol
from ardiffusion.metrics.store import Chunk, FeatureStore

CHUNK = 8
FRAMES_AT_ONCE = 128  # that go through the network together
READERS = 8


@dataclass(frozen=True)
class Videos:
    """One side of a comparison.

    Attributes:
        name: Its folder, or what else to call it.
        keys: For each video, its name and what changes with its content.
        lengths: The number of frames of each video.
        read: Reads a clip, uint8 (F, 3, H, W).
        identity: What else the frames depend on, like a folder and a resolution.
        made: Whether `read` makes the clips, like samples of a network that trains: then it is
            asked once for each, in order and in the caller's thread, and nothing is kept.
    """

    name: str
    keys: Sequence[str]
    lengths: Sequence[int]
    read: Callable[[Clip], Tensor]
    identity: dict[str, Any]
    made: bool = False

    def clip_keys(self, clips: Sequence[Clip]) -> list[str]:
        """Name clips by their video, what its content is known by, and their start."""
        return [f"{self.keys[clip.video]}:{clip.start}" for clip in clips]

    def clip_names(self, clips: Sequence[Clip]) -> list[str]:
        """Name clips for people."""
        names = [self.keys[clip.video].partition(":")[0] for clip in clips]
        starts = [f", frame {clip.start} on" for clip in clips]
        return [f"{self.name}, {name}{start}" for name, start in zip(names, starts, strict=True)]

    def frame_size(self, clip: Clip, frames: int) -> tuple[int, int]:
        """Return height and width of a clip."""
        video = self.read(clip)
        check_clip(video, name=self.name, frames=frames)
        return video.shape[-2], video.shape[-1]


class ClipFeatures(NamedTuple):
    """Clips of one side, their features (N, d), and Chunk's facts about all of them."""

    clips: list[Clip]
    features: Tensor
    highest: int
    size: tuple[int, int]


class PreparedClip(NamedTuple):
    """A clip as the network is given it, and Chunk's facts about it as it was before."""

    video: Tensor
    highest: int
    size: tuple[int, int]


def extract_features(
    protocol: Protocol,
    videos: Videos,
    clips: list[Clip],
    cache: str | Path | None = None,
    device: torch.device | str = "cpu",
    advance: Callable[[int], object] = lambda clips: None,
) -> ClipFeatures:
    """Return the features of clips, from the cache where they are there; processes share the work.

    Args:
        protocol: How to prepare clips, and the network.
        videos: The videos.
        clips: The clips.
        cache: Folder to keep features in.
        device: Where the feature network runs.
        advance: Told how many clips have been described since it was told last.
    """
    rank, world = rank_and_world()
    chunks = [clips[start : start + CHUNK] for start in range(0, len(clips), CHUNK)]
    store = None
    if cache is not None and not videos.made:
        identity = videos.identity | protocol.preparation()
        store = FeatureStore(cache, name=Path(videos.name).name, identity=identity)
    found: dict[int, Chunk] = {}
    missing: dict[int, list[Clip]] = {}
    for number in range(rank, len(chunks), world):
        chunk = store and store.load(videos.clip_keys(chunks[number]))
        if chunk is None:
            missing[number] = chunks[number]
        else:
            found[number] = chunk
            advance(len(chunks[number]))
    for number, prepared in prepared_chunks(protocol, videos, missing):
        check_sizes(videos.name, [clip.size for clip in prepared])
        chunk = found[number] = embed_chunk(protocol, prepared, device=device)
        names = videos.clip_names(missing[number])
        check_finite(chunk.features, network=protocol.extractor, videos=names)
        if store is not None:
            store.save(videos.clip_keys(missing[number]), chunk)
        advance(len(missing[number]))
    ordered = [chunk for _, chunk in sorted(gather_parts(found).items())]
    check_sizes(videos.name, [chunk.size for chunk in ordered])
    features = torch.cat([chunk.features for chunk in ordered])
    highest = max(chunk.highest for chunk in ordered)
    return ClipFeatures(clips, features=features, highest=highest, size=ordered[0].size)


def prepared_chunks(
    protocol: Protocol, videos: Videos, chunks: dict[int, list[Clip]]
) -> Iterator[tuple[int, list[PreparedClip]]]:
    """Read and prepare the clips of chunks in threads, one chunk ahead of what is asked for."""

    def prepare_clip(clip: Clip) -> PreparedClip:
        video = videos.read(clip)
        check_clip(video, name=videos.name, frames=protocol.frames)
        size = video.shape[-2], video.shape[-1]
        return PreparedClip(protocol.prepare(video[None])[0], int(video.max()), size=size)

    if videos.made:
        yield from ((number, [*map(prepare_clip, clips)]) for number, clips in chunks.items())
        return
    with ThreadPoolExecutor(READERS) as pool:
        begun = ((n, [pool.submit(prepare_clip, clip) for clip in c]) for n, c in chunks.items())
        chunk = next(begun, None)
        while chunk is not None:
            number, futures = chunk
            chunk = next(begun, None)
            yield number, [future.result() for future in futures]


def embed_chunk(
    protocol: Protocol, prepared: list[PreparedClip], device: torch.device | str
) -> Chunk:
    """Describe the clips of a chunk, in full float32."""
    place = torch.device(device)
    network = protocol.extractor.eval().to(place)
    video = torch.stack([clip.video for clip in prepared])  # (N, F, 3, H, W)

    @torch.no_grad()
    def describe(batch: Tensor) -> Tensor:
        return network(batch.to(place)).float().cpu()

    with full_precision(place):  # threads that start within it have no autocast of their own
        if place.type == "cpu":
            parts = in_threads(describe, video.split(1))
        else:
            parts = [describe(b) for b in video.split(max(FRAMES_AT_ONCE // protocol.frames, 1))]
    highest = max(clip.highest for clip in prepared)
    return Chunk(torch.cat(parts), highest=highest, size=prepared[0].size)
