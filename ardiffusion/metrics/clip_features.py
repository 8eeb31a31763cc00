"""Features of the clips of a folder, shared among processes and kept on disk.

Clips are described in chunks of eight that do not depend on how many processes share the work or
what was kept from earlier runs, and come back in their order, so that neither changes a score.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed

from ardiffusion.metrics.checks import check_clip, check_size
from ardiffusion.metrics.precision import full_precision
from ardiffusion.metrics.protocol import Clip, Protocol
from ardiffusion.metrics.store import Chunk, FeatureStore
from ardiffusion.metrics.threads import in_threads

CHUNK = 8
FRAMES_AT_ONCE = 128  # that go through the network together
READERS = 8
T = TypeVar("T")


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


class Described(NamedTuple):
    """Clips of one side, their features (N, d), and Chunk's facts about all of them."""

    clips: list[Clip]
    features: Tensor
    highest: int
    size: tuple[int, int]


class _Prepared(NamedTuple):
    video: Tensor
    highest: int
    size: tuple[int, int]


def look(videos: Videos, clip: Clip, frames: int) -> tuple[int, int]:
    """Return height and width of a clip."""
    video = videos.read(clip)
    check_clip(video, name=videos.name, frames=frames)
    return video.shape[-2], video.shape[-1]


def describe(
    protocol: Protocol,
    videos: Videos,
    clips: list[Clip],
    cache: str | Path | None = None,
    device: torch.device | str = "cpu",
    advance: Callable[[int], object] = lambda clips: None,
) -> Described:
    """Return the features of clips, from the cache where they are there; processes share the work.

    Args:
        protocol: How to prepare clips, and the network.
        videos: The videos.
        clips: The clips.
        cache: Folder to keep features in.
        device: Where the feature network runs.
        advance: Told how many clips have been described since it was told last.
    """
    rank, world = processes()
    chunks = [clips[start : start + CHUNK] for start in range(0, len(clips), CHUNK)]
    store = None
    if cache is not None and not videos.made:
        identity = videos.identity | protocol.preparation()
        store = FeatureStore(cache, name=Path(videos.name).name, identity=identity)
    found: dict[int, Chunk] = {}
    missing: dict[int, list[Clip]] = {}
    for number in range(rank, len(chunks), world):
        chunk = store and store.load(keys_of(videos, chunks[number]))
        if chunk is None:
            missing[number] = chunks[number]
        else:
            found[number] = chunk
            advance(len(chunks[number]))
    for number, loaded in load(protocol, videos, missing):
        for clip in loaded[1:]:
            check_size(videos.name, loaded[0].size, videos.name, clip.size)
        found[number] = embed(protocol, loaded, device=device)
        if store is not None:
            store.save(keys_of(videos, chunks[number]), found[number])
        advance(len(chunks[number]))
    ordered = [chunk for _, chunk in sorted(gather(found).items())]
    for chunk in ordered[1:]:
        check_size(videos.name, ordered[0].size, videos.name, chunk.size)
    highest = max(chunk.highest for chunk in ordered)
    features = torch.cat([chunk.features for chunk in ordered])
    return Described(clips, features=features, highest=highest, size=ordered[0].size)


def load(
    protocol: Protocol, videos: Videos, chunks: dict[int, list[Clip]]
) -> Iterator[tuple[int, list[_Prepared]]]:
    """Read and prepare the clips of chunks in threads, one chunk ahead of what is asked for."""

    def prepared(clip: Clip) -> _Prepared:
        video = videos.read(clip)
        check_clip(video, name=videos.name, frames=protocol.frames)
        height, width = video.shape[-2:]
        ready = protocol.prepare(video[None])[0]
        return _Prepared(ready, highest=int(video.max()), size=(height, width))

    if videos.made:
        yield from (
            (number, [prepared(clip) for clip in clips]) for number, clips in chunks.items()
        )
        return
    with ThreadPoolExecutor(READERS) as pool:
        ahead: list[tuple[int, list[Future[_Prepared]]]] = []
        for number, clips in chunks.items():
            ahead.append((number, [pool.submit(prepared, clip) for clip in clips]))
            if len(ahead) > 1:
                number, futures = ahead.pop(0)
                yield number, [future.result() for future in futures]
        for number, futures in ahead:
            yield number, [future.result() for future in futures]


def embed(protocol: Protocol, loaded: list[_Prepared], device: torch.device | str) -> Chunk:
    """Describe the clips of a chunk, in full float32."""
    place = torch.device(device)
    network = protocol.extractor.eval().to(place)
    network.load()
    video = torch.stack([clip.video for clip in loaded])  # (N, F, 3, H, W)

    @torch.no_grad()
    def features(batch: Tensor) -> Tensor:
        return network(batch.to(place)).float().cpu()

    with full_precision(place):  # threads that start within it have no autocast of their own
        if place.type == "cpu":
            parts = in_threads(features, video.split(1))
        else:
            parts = [features(b) for b in video.split(max(FRAMES_AT_ONCE // protocol.frames, 1))]
    highest = max(clip.highest for clip in loaded)
    return Chunk(torch.cat(parts), highest=highest, size=loaded[0].size)


def keys_of(videos: Videos, clips: Sequence[Clip]) -> list[str]:
    """Name clips by their video, what its content is known by, and their start."""
    return [f"{videos.keys[clip.video]}:{clip.start}" for clip in clips]


def processes() -> tuple[int, int]:
    """Return the rank of this process and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gather(found: dict[int, T]) -> dict[int, T]:
    """Give every process what all of them have."""
    _, world = processes()
    if world == 1:
        return found
    parts: list[Any] = [None] * world
    distributed.all_gather_object(parts, found)
    return {number: thing for part in parts for number, thing in part.items()}
