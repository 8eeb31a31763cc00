"""Latents in chunks of LitData, in object storage or in a folder, that are read in any order.

A data set of LitData holds chunks of many clips, and `index.json`, which lists them. Ours holds
`latents.index.json` as well: it says of chunks what the index of a latent cache says of shards,
and the list has its hash. Each machine keeps the chunks read last in a folder for all its
processes. Of LitData serve the format and the transfer; its own reader visits chunks in turn.
"""

import functools
import hashlib
import json
import os
import re
import time
from contextlib import suppress
from importlib import import_module
from io import BufferedReader
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict

import numpy as np
from filelock import FileLock
from torch import Tensor

from ardiffusion.data.cache_index import read_columns
from ardiffusion.data.windows import BrokenData
from ardiffusion.files import cache_folder, has_type

LISTING, CATALOG = "index.json", "latents.index.json"
LEAVES = 3  # of what LitData keeps of a clip: latents, key, label
_WAIT = 0.05  # seconds until a chunk that another process fetches is looked for again


class Chunk(TypedDict):
    """What LitData lists of a chunk."""

    filename: str
    chunk_bytes: int


class Listing(TypedDict):
    """What `index.json` holds for us."""

    chunks: list[Chunk]
    ardiffusion: str  # SHA-256 of what we know of the chunks


def is_remote(place: str | Path | None) -> bool:
    """Say whether latents are in object storage, or to be treated so (local:/folder)."""
    return isinstance(place, str) and bool(re.match(r"local:|[a-z][a-z0-9]+://", place))


def locate(place: str) -> str | Path:
    """Return an address as it is, and a folder as a path."""
    return place.rstrip("/") if is_remote(place) else Path(place).expanduser()


def below(place: str | Path, part: str) -> str | Path:
    """Name a part of a place, or the place itself."""
    return place / part if isinstance(place, Path) else f"{place}/{part}".rstrip("/")


def litdata(module: str) -> Any:  # noqa: ANN401
    """Import a module of LitData, which only streams need."""
    try:
        return import_module(f"litdata.streaming.{module}")
    except ImportError as error:
        raise ValueError(
            "Latents in object storage need the package litdata; install it by: "
            "pip install 'ardiffusion[stream]'."
        ) from error


@functools.cache
def downloader(url: str, process: int) -> Any:  # noqa: ANN401
    """Return what fetches files; no connection outlives a fork."""
    return litdata("downloader").get_downloader(url, "", [])


def fetch(url: str, name: str, folder: Path) -> None:
    """Fetch a file whole, or return at once if another process of this machine is at it."""
    source = downloader(url, os.getpid())
    try:
        source.download_file(f"{url}/{name}", str(folder / name))
    except Exception as error:  # each storage has its own
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise OSError(
            f"Cannot read {url}/{name} ({reason}): check the address, the network and your "
            "credentials."
        ) from error


def make_room(folder: Path, room: float) -> None:
    """Remove chunks, first those that were used longest ago, until the others fit."""
    with FileLock(folder / ".room.lock"):
        found: list[tuple[int, int, str]] = []
        for entry in os.scandir(folder):
            if entry.name.startswith("chunk-") and not entry.name.endswith(".lock"):
                with suppress(FileNotFoundError):  # a download that was just renamed
                    status = entry.stat()
                    found.append((status.st_mtime_ns, status.st_size, entry.path))
        over = sum(size for _, size, _ in found) - room
        for _, size, path in sorted(found):
            if over > 0:
                Path(path).unlink(missing_ok=True)
                over -= size


def open_folder(url: str | Path, cache: str | Path | None) -> tuple[Path, Listing]:
    """Return the folder for the chunks of an address as they are now, and the list of them."""
    if isinstance(url, Path):
        return url, read_listing(url)
    streams = Path(cache or cache_folder()).expanduser() / "streams"
    streams.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=streams) as new:
        fetch(url, LISTING, Path(new))
        listing = read_listing(Path(new), url)
        version = f"{url} {listing['ardiffusion']}".encode()
        folder = streams / hashlib.sha256(version).hexdigest()[:16]
        if not (folder / CATALOG).exists():
            fetch(url, CATALOG, Path(new))
            if file_hash(Path(new, CATALOG)) != listing["ardiffusion"]:
                raise ValueError(
                    f"{url}/{CATALOG} is not the one that was written with {LISTING}: run the "
                    "same `ardiff-vae predict` again."
                )
            folder.mkdir(exist_ok=True)
            os.replace(Path(new, CATALOG), folder / CATALOG)
    return folder, listing


def read_listing(folder: Path, url: str | Path | None = None) -> Listing:
    """Read the list of chunks."""
    found: Any = None
    with suppress(ValueError, RecursionError):
        found = json.loads((folder / LISTING).read_text(encoding="utf-8"))
    if not has_type(found, Listing):
        raise ValueError(
            f"{url or folder} holds no latents for streaming: write some with `ardiff-vae "
            "predict --output s3://...`."
        )
    return found


def file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ChunkFolder:
    """Reads latents from chunks; one is fetched when it is needed and not there.

    Args:
        place: Address of the data set, s3://bucket/folder, hf://datasets/user/repo/folder or
            another one that LitData knows, or a folder that holds all of it.
        cache: Folder in which a folder for the chunks is made.
        room: Bytes of chunks that may lie there.
    """

    def __init__(
        self, place: str | Path, cache: str | Path | None = None, room: float = 50e9
    ) -> None:
        self.place, self.room = place, room
        self.folder, listing = open_folder(place, cache)
        self.index = read_columns(self.folder, CATALOG)
        self._sizes = {chunk["filename"]: chunk["chunk_bytes"] for chunk in listing["chunks"]}
        self._names = list(self._sizes)
        if self._names != list(self.index["shards"]) or not self.index["complete"]:
            raise ValueError(
                f"{place} lists other chunks than {CATALOG} describes: run the same `ardiff-vae "
                "predict` again."
            )
        self._checked: set[str] = set()  # chunks of which this process saw that they are whole

    @property
    def kept(self) -> int | None:
        """How many chunks are there while as many others come; None if all have room."""
        if isinstance(self.place, Path) or sum(self._sizes.values()) <= self.room:
            return None
        return max(1, int(self.room / 2 / max(self._sizes.values())))

    def read(self, shard: int, number: int, first: int, rows: int) -> Tensor:
        """Read rows of the latents of a clip, by the number of its chunk and its own in that."""
        name = self._names[shard]
        while True:
            with suppress(FileNotFoundError), open(self.folder / name, "rb") as file:
                self._check(name, file)
                return read_clip(file, number)[first : first + rows]
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
                    "again, and if that does not help, run the same `ardiff-vae predict` again."
                )
            self._checked.add(name)
        with suppress(FileNotFoundError):
            os.utime(file.name)


def read_clip(file: BufferedReader, number: int) -> Tensor:
    """Read the latents of a clip.

    A chunk begins with the number of its items and where each begins, an item with the sizes of
    its leaves, all of 32 bits.
    """
    file.seek(4 * (1 + number))
    begin = int(np.frombuffer(file.read(4), np.uint32)[0])
    file.seek(begin)
    size = int(np.frombuffer(file.read(4 * LEAVES), np.uint32)[0])
    serializer = litdata("serializers").TensorSerializer()
    return serializer.deserialize(bytearray(file.read(size)))
