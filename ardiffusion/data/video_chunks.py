"""Videos in chunks: an item holds the bytes of a file, or of all pictures of a folder.

FFmpeg and Pillow read files, so each process copies the video that it reads out of its chunk.
"""

import json
import os
import shutil
import zlib
from bisect import bisect_left
from contextlib import suppress
from functools import cached_property
from io import BytesIO
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ardiffusion.data.cache_index import Index, Origin, describe
from ardiffusion.data.catalog import SplitRule, read_catalog
from ardiffusion.data.chunks import VIDEOS, ChunkFolder, list_places
from ardiffusion.data.clips import VideoFiles
from ardiffusion.data.index import Counts, known_table
from ardiffusion.data.layouts import Entry
from ardiffusion.data.packets import PacketTable
from ardiffusion.data.pictures import picture_files
from ardiffusion.data.samples import is_inside
from ardiffusion.data.spans import FrameSpan, Spans
from ardiffusion.data.stamp import stamp
from ardiffusion.data.storage import streams_folder
from ardiffusion.data.video import VideoReader
from ardiffusion.data.windows import BrokenData
from ardiffusion.files import has_type, partial_path, shown

LARGEST = 2**32 - 2**24  # bytes of a video; places in a chunk have 32 bits


def describe_videos(root: Path, entries: list[Entry], counts: Counts, broken: float) -> Index:
    """Say of videos what a latent cache says, as far as it holds for them."""
    rule = SplitRule(root, {}, {})
    found = read_catalog(rule, entries, counts, 1, broken, option="--max_broken")
    origin: Origin = {"fingerprint": "", "resolution": 1, "frames": 1, "stride": 1}  # no latents
    return describe(found, origin, lambda path: stamp(root / path), complete=True)


def video_item(root: Path, entry: Entry, cache: str | None) -> dict[str, bytes]:
    """Read what a chunk holds of a video: the leaves of `VIDEOS`."""
    path = root / entry.path
    files = picture_files(path) if path.is_dir() else [path]
    if sum(file.stat().st_size for file in files) > LARGEST:
        raise ValueError(f"{shown(path)} is larger than {LARGEST} bytes: cut it into scenes.")
    contents = [file.read_bytes() for file in files]
    sizes = {file.name: len(data) for file, data in zip(files, contents, strict=True)}
    table = known_table(path, cache)
    return {
        "video": b"".join(contents),
        "path": os.fsencode(entry.path),
        "class": os.fsencode(entry.label or ""),
        "files": json.dumps(sizes if path.is_dir() else {}).encode(),
        "table": b"" if table is None else table.pack(),
    }


class VideoChunks(ChunkFolder):
    """Finds videos in chunks."""

    kind = VIDEOS

    @cached_property
    def _places(self) -> np.ndarray:
        places = list_places(self.index["shards"])
        return places[np.argsort(places["video"])]

    def survey(self) -> tuple[list[Entry], Counts]:
        """Say which videos there are, and how many frames they have."""
        names = [*self.index["classes"], None]  # the last for those without a class
        pairs = zip(self.index["paths"], self.index["labels"], strict=True)
        entries = [Entry(path, names[max(label, -1)]) for path, label in pairs]
        frames = np.array(self.index["lengths"], np.int32)
        broken = {
            number: f"{self.place}/{self.index['paths'][number]} was broken when it was written."
            for number in np.flatnonzero(frames == 0).tolist()
        }
        return entries, Counts(frames, broken)

    def in_turn(self, videos: Spans) -> Spans:
        """Sort videos by their chunks, unless all of these are kept."""
        if self.kept is None:
            return videos
        order = np.argsort(self.chunk_of(videos.columns[:, 4]), kind="stable")
        return Spans.of(videos[number] for number in order.tolist())

    def chunk_of(self, videos: np.ndarray) -> np.ndarray:
        """Say in which chunks videos are."""
        return self._places["shard"][np.searchsorted(self._places["video"], videos)]

    def stamp(self, path: str) -> str:
        """Say what changes with the content of a video, as that was when it was written."""
        return self.index["stamps"][self._place(path)[0]]

    def video(self, path: str) -> dict[str, bytes]:
        return self.item(*self._place(path)[2:])

    def _place(self, path: str) -> tuple[int, int, int, int]:
        """Find a video by its path; paths are sorted."""
        number = bisect_left(self.index["paths"], path)
        row = int(np.searchsorted(self._places["video"], number))
        found = self._places[row : row + 1]
        if self.index["paths"][number : number + 1] != [path] or found["video"] != [number]:
            raise ValueError(f"{self.place} holds no video {shown(path)}: write it there again.")
        return found[0].tolist()


class StreamedVideos(VideoFiles):
    """Reads clips of videos in chunks; the video that is read has a folder in the cache."""

    def __init__(
        self, chunks: VideoChunks, resolution: int = 256, cache: str | Path | None = None
    ) -> None:
        super().__init__(chunks.place, resolution, cache)
        self.chunks = chunks
        self._copies: tuple[int, Path] | None = None  # a process and its folder

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_copies": None}

    def read(self, span: FrameSpan, first: int, frames: int, step: int) -> Tensor:
        try:
            return super().read(span, first, frames, step)
        except BrokenData:
            raise
        except (ValueError, OSError) as error:
            copy, source = str(self._copy(span.path)), f"{self.place}/{span.path}"
            raise ValueError(str(error).replace(copy, source)) from error

    def stamp(self, path: str) -> str:
        return self.chunks.stamp(path)

    def open(self, path: str) -> VideoReader:
        item, table = self.chunks.video(path), None
        with suppress(zlib.error, ValueError):
            table = PacketTable.unpack(item["table"]) if item["table"] else None
        for old in self._folder().iterdir():
            old.unlink() if old.is_file() else shutil.rmtree(old)
        file = self._copy(path)
        write_files(file, item)
        return VideoReader(file, table)

    def _copy(self, path: str) -> Path:
        return self._folder() / Path(path).name

    def _folder(self) -> Path:
        """Return the folder of this process, which goes when the process ends."""
        if self._copies is None or self._copies[0] != os.getpid():
            folder = partial_path(streams_folder(self.cache) / f"videos-{id(self)}")
            Finalize(self, shutil.rmtree, args=(folder, True), exitpriority=0)
            folder.mkdir()
            self._copies = (os.getpid(), folder)
        return self._copies[1]


def write_files(file: Path, item: dict[str, bytes]) -> None:
    """Write the file of an item, or the folder of pictures that it holds."""
    sizes: Any = json.loads(item["files"])
    if not has_type(sizes, dict[str, int]) or not all(map(is_inside, sizes)):
        raise ValueError(f"{shown(file)} is not as it was written: write it anew.")
    if not sizes:
        file.write_bytes(item["video"])
    else:
        file.mkdir()
        data = BytesIO(item["video"])
        for name, size in sizes.items():
            (file / Path(name).name).write_bytes(data.read(size))
