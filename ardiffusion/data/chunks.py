"""Chunks of LitData, in object storage or in a folder, whose items are read in any order.

A data set of LitData holds chunks of many items, latents of clips or videos, and `index.json`,
which lists them. Ours holds `latents.index.json` or `videos.index.json` as well: it says of chunks
what the index of a latent cache says of shards, and the list has its hash. Each machine keeps the
chunks read last in a folder for all its processes. Of LitData serve the format and the transfer;
its own reader visits chunks in turn.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from io import BufferedReader
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypedDict

import numpy as np
from filelock import FileLock

from ardiffusion.data.cache_index import Clips, read_index
from ardiffusion.data.storage import fetch, is_remote, streams_folder
from ardiffusion.data.windows import BrokenData
from ardiffusion.files import has_type

LISTING = "index.json"
# of a clip: its video and first frame there, its shard or chunk, and its number in that
PLACE = np.dtype([("video", "i8"), ("start", "i8"), ("shard", "i4"), ("number", "i4")])
_WAIT = 0.05  # seconds until a chunk that another process fetches is looked for again


class Kind(NamedTuple):
    """What a data set holds."""

    name: str
    leaves: tuple[str, ...]  # of an item
    option: str  # names such a data set
    command: str  # writes one

    @property
    def catalog(self) -> str:
        """The file that says what is in the chunks."""
        return f"{self.name}.index.json"


LATENTS = Kind("latents", ("latents", "key", "label"), "--data.latents", "ardiff-vae predict")
VIDEOS = Kind(
    "videos", ("video", "path", "class", "files", "table"), "--data.root", "ardiff publish"
)


class Chunk(TypedDict):
    """What LitData lists of a chunk."""

    filename: str
    chunk_bytes: int


class Listing(TypedDict):
    """What `index.json` holds for us."""

    chunks: list[Chunk]
    ardiffusion: str  # SHA-256 of what we know of the chunks
    holds: str | None  # the name of a kind; latents where none is given


def in_chunks(place: str | Path, kind: Kind) -> bool:
    """Say whether a place holds chunks: object storage, or a folder with a copy of them."""
    return is_remote(place) or Path(place, kind.catalog).exists()


def list_places(shards: Mapping[str, Clips]) -> np.ndarray:
    """Say where all clips are that shards or chunks hold."""
    sizes = np.array([len(clips["starts"]) for clips in shards.values()], np.int64)
    clips = np.empty(sizes.sum(), PLACE)
    clips["video"] = [*chain.from_iterable(each["videos"] for each in shards.values())]
    clips["start"] = [*chain.from_iterable(each["starts"] for each in shards.values())]
    clips["shard"] = np.repeat(np.arange(len(sizes)), sizes)
    clips["number"] = np.arange(len(clips)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return clips


def make_room(folder: Path, room: float, keep: str = "") -> None:
    """Remove chunks, first those that were used longest ago, until the others fit; `keep` one."""
    with FileLock(folder / ".room.lock"):
        found: list[tuple[int, int, str]] = []
        for entry in os.scandir(folder):
            if entry.name.startswith("chunk-") and not entry.name.endswith(".lock"):
                with suppress(FileNotFoundError):  # a download that was just renamed
                    status = entry.stat()
                    found.append((status.st_mtime_ns, status.st_size, entry.path))
        over = sum(size for _, size, _ in found) - room
        for _, size, path in sorted(found):
            if over > 0 and Path(path).name != keep:
                Path(path).unlink(missing_ok=True)
                over -= size


def open_folder(url: str | Path, kind: Kind, cache: str | Path | None) -> tuple[Path, Listing]:
    """Return the folder for the chunks of an address as they are now, and the list of them."""
    if isinstance(url, Path):
        return url, read_listing(url, kind, url)
    streams = streams_folder(cache)
    streams.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=streams) as new:
        fetch(url, LISTING, Path(new))
        listing = read_listing(Path(new), kind, url)
        version = f"{url} {listing['ardiffusion']}".encode()
        folder = streams / hashlib.sha256(version).hexdigest()[:16]
        if not (folder / kind.catalog).exists():
            fetch(url, kind.catalog, Path(new))
            if file_hash(Path(new, kind.catalog)) != listing["ardiffusion"]:
                raise ValueError(
                    f"{url}/{kind.catalog} is not the one that was written with {LISTING}: run "
                    f"the same `{kind.command}` again."
                )
            folder.mkdir(exist_ok=True)
            os.replace(Path(new, kind.catalog), folder / kind.catalog)
    return folder, listing


def read_listing(folder: Path, kind: Kind, place: str | Path) -> Listing:
    """Read the list of chunks of a place."""
    found: Any = None
    with suppress(ValueError, RecursionError):
        found = json.loads((folder / LISTING).read_text(encoding="utf-8"))
    if not has_type(found, Listing):
        raise ValueError(
            f"{place} holds no {kind.name} for streaming: write some there with `{kind.command}`."
        )
    holds = found.get("holds") or LATENTS.name
    for other in (LATENTS, VIDEOS):
        if holds == other.name != kind.name:
            raise ValueError(f"{place} holds {holds}, no {kind.name}: name it in {other.option}.")
    return found


def file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ChunkFolder:
    """Reads items from chunks; one is fetched when it is needed and not there.

    Args:
        place: Address of the data set, s3://bucket/folder, hf://datasets/user/repo/folder or
            another one that LitData knows, or a folder that holds all of it.
        cache: Folder in which a folder for the chunks is made.
        room: Bytes of chunks that may lie there.
    """

    kind: Kind  # what it holds

    def __init__(
        self, place: str | Path, cache: str | Path | None = None, room: float = 50e9
    ) -> None:
        self.place, self.room = place, room
        self.folder, listing = open_folder(place, self.kind, cache)
        self.index = read_index(self.folder, self.kind.catalog)
        self._sizes = {chunk["filename"]: chunk["chunk_bytes"] for chunk in listing["chunks"]}
        self._names = list(self._sizes)
        if self._names != list(self.index["shards"]) or not self.index["complete"]:
            raise ValueError(
                f"{place} lists other chunks than {self.kind.catalog} describes: run the "
                f"same `{self.kind.command}` again."
            )
        self._checked: set[str] = set()  # chunks of which this process saw that they are whole

    @property
    def kept(self) -> int | None:
        """How many chunks are there while as many others come; None if all have room."""
        if isinstance(self.place, Path) or sum(self._sizes.values()) <= self.room:
            return None
        return max(1, int(self.room / 2 / max(self._sizes.values())))

    def item(self, shard: int, number: int) -> dict[str, bytes]:
        """Read an item by the number of its chunk and its own in that."""
        name = self._names[shard]
        while True:
            with suppress(FileNotFoundError), open(self.folder / name, "rb") as file:
                self._check(name, file)
                return read_item(file, number, self.kind.leaves)
            self._fetch(name)

    def _fetch(self, name: str) -> None:
        if isinstance(self.place, Path):
            raise BrokenData(f"Chunk {name} of {self.place} is missing: copy it there.")
        make_room(self.folder, self.room - self._sizes[name])
        self._checked.discard(name)
        try:
            fetch(self.place, name, self.folder)
        except OSError as error:
            raise BrokenData(str(error)) from error
        make_room(self.folder, self.room, keep=name)  # others may have fetched into it, too
        if not (self.folder / name).exists():
            time.sleep(_WAIT)

    def _check(self, name: str, file: BufferedReader) -> None:
        """Make sure that a chunk is what was written; note that it was used."""
        if name not in self._checked:
            if hashlib.file_digest(file, "sha256").hexdigest() != self.index["hashes"][name]:
                with suppress(FileNotFoundError):
                    os.unlink(file.name)
                raise BrokenData(
                    f"Chunk {name} of {self.place} is not the one its index describes: start "
                    f"again, and if that does not help, run the same `{self.kind.command}` again."
                )
            self._checked.add(name)
        with suppress(FileNotFoundError):
            os.utime(file.name)


def read_item(file: BufferedReader, number: int, leaves: tuple[str, ...]) -> dict[str, bytes]:
    """Read the leaves of an item.

    A chunk begins with the number of its items and where each begins, an item with the sizes of
    its leaves, all of 32 bits.
    """
    file.seek(4 * (1 + number))
    file.seek(int(np.frombuffer(file.read(4), np.uint32)[0]))
    sizes = np.frombuffer(file.read(4 * len(leaves)), np.uint32).tolist()
    return {name: file.read(size) for name, size in zip(leaves, sizes, strict=True)}
