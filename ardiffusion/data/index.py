"""Count the frames of all clips once, in parallel, and keep what is found outside the data.

A video is known by its content, its size and some of its bytes, wherever it is moved or copied to;
that it did not change is seen from its size, times and inode, without opening it. All data sets
share one SQLite file in `$XDG_CACHE_HOME/ardiffusion` (`~/.cache/ardiffusion`): SQLite is in
Python, adds to a file while others read it and keeps it whole when a process is killed. A row
holds arrays of many videos, as a million rows of one take seconds to read.
"""

import hashlib
import json
import os
import sqlite3
import stat
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from ardiffusion.data.notices import warn_once
from ardiffusion.data.packets import PacketTable
from ardiffusion.data.stamp import file_digest
from ardiffusion.data.video import FAR, examine
from ardiffusion.files import cache_folder, shown

_VERSION = 4
_PART = 64  # clips that are written at once, so that a killed run has little to repeat
_RECENT = 2e9  # nanoseconds in which a file may change again without its times telling
_ROW = np.dtype([("seen", "<i8"), ("key", "<i8"), ("frames", "<i4")])
_NAME = "\0"  # stands for the path in what is kept of a clip


class Counts(NamedTuple):
    """How many frames clips have, and why those without any are of no use, by their numbers."""

    frames: np.ndarray
    errors: dict[int, str]


class Found(NamedTuple):
    """What looking into a clip gave; `seen` and `key` are 0 if they are not to be trusted."""

    seen: int
    key: int
    frames: int = 0
    error: str | None = None
    damage: str | None = None  # that FFmpeg conceals
    table: PacketTable | None = None


def index_file(cache: str | Path | None = None) -> Path:
    """Name the index, in a folder or in the user's cache folder."""
    folder = cache_folder() if cache is None else Path(cache).expanduser()
    return folder / f"videos-{_VERSION}.sqlite"


def identity(path: str) -> int:
    """Return what changes with a file or a folder, without opening it; 0 if that is not sure."""
    try:
        status = os.stat(path)
    except OSError:
        return 0
    if time.time_ns() - status.st_ctime_ns < _RECENT:
        return 0
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return hash((status.st_ino, status.st_size, *times))  # that of numbers is the same everywhere


def _key(path: str) -> int:
    """Return what the content of a file, or the names in a folder, are known by; 0 if nothing."""
    try:
        status = os.stat(path)
        known = "/".join(sorted(os.listdir(path))) if stat.S_ISDIR(status.st_mode) else ""
        if stat.S_ISREG(status.st_mode):
            suffix = os.path.splitext(path)[1].lower()  # decides who reads it
            known = f"{suffix}/{status.st_size}/{file_digest(path, status.st_size)}"
    except OSError:
        return 0
    digest = hashlib.sha256(os.fsencode(known)).digest()
    return int.from_bytes(digest[:8], "big", signed=True) if known else 0


class VideoIndex:
    """The file, and what was known when it was opened: rows, and errors and damage by key."""

    def __init__(self, file: Path) -> None:
        self.file, self.notes = file, dict[int, tuple[str | None, str | None]]()
        parts = [np.empty(0, _ROW)]
        try:
            with self.open() as database:
                for rows, notes in database.execute("SELECT rows, notes FROM parts"):
                    parts.append(np.frombuffer(rows, _ROW))
                    self.notes |= {int(key): note for key, note in json.loads(notes).items()}
        except (OSError, sqlite3.OperationalError):  # a place that cannot be read
            parts, self.notes = parts[:1], {}
        except (sqlite3.DatabaseError, ValueError, TypeError, AttributeError):  # none of ours
            with suppress(OSError):
                file.unlink()
            parts, self.notes = parts[:1], {}
        self.rows = np.concatenate(parts)
        orders = [(name, np.argsort(self.rows[name], kind="stable")) for name in ("seen", "key")]
        self._sorted = {name: (self.rows[name][order], order) for name, order in orders}

    @contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.file, timeout=60)) as database, database:
            database.execute("PRAGMA synchronous = OFF")  # what is lost is looked into again
            database.execute("CREATE TABLE IF NOT EXISTS parts (rows BLOB, notes TEXT)")
            database.execute(
                "CREATE TABLE IF NOT EXISTS tables (key INTEGER PRIMARY KEY, packed BLOB)"
            )
            yield database

    def find(self, name: str, wanted: np.ndarray) -> np.ndarray:
        """Return the last row that has a value in a column, -1 where none has or it is 0."""
        values, order = self._sorted[name]
        place = np.searchsorted(values, wanted, side="right") - 1
        if len(values) == 0:
            return place
        return np.where((values[place] == wanted) & (wanted != 0), order[place], -1)

    def look(self, path: str) -> Found:
        """Look up a clip by its content, or look into it."""
        found = Found(identity(path), _key(path))
        row = int(self.find("key", np.array([found.key]))[0])
        # what was broken may be mended where no byte is looked at
        if row >= 0 and not any(self.notes.get(found.key, ())):
            key = found.key if found.seen else 0  # or every run would add the same
            return found._replace(key=key, frames=int(self.rows["frames"][row]))
        seen = _examine(found, path)
        if found.key == 0 or not (seen.error or seen.damage):
            return seen
        try:
            with open(path, "rb") as file:
                while file.read(2**20):
                    pass
            return _examine(found, path)  # for the disk may have failed for a moment
        except OSError:  # the disk's fault, not the video's
            return seen._replace(key=0)

    def add(self, found: Sequence[Found]) -> None:
        known = [each for each in found if each.key != 0]
        if not known:
            return
        rows = np.array([(each.seen, each.key, each.frames) for each in known], _ROW)
        noted = [e for e in known if e.error or e.damage or e.key in self.notes]
        notes = {each.key: each[3:5] for each in noted}
        tables = [
            (key, table.pack())
            for _, key, frames, _, _, table in known
            if table is not None and (frames > FAR or len(table.entries) > 1)
        ]
        try:
            with self.open() as database:
                database.execute("INSERT INTO parts VALUES (?, ?)", (rows, json.dumps(notes)))
                database.executemany("INSERT OR REPLACE INTO tables VALUES (?, ?)", tables)
        except (OSError, sqlite3.Error) as error:
            warn_once(f"Cannot keep the index {self.file} ({error}): set --data.cache.")


def _examine(found: Found, path: str) -> Found:
    try:
        frames, damage, table = examine(path)
        return found._replace(frames=frames, damage=_unnamed(damage, path), table=table)
    except (ValueError, OSError) as error:
        return found._replace(error=_unnamed(str(error), path))


def _unnamed(text: str | None, path: str) -> str | None:
    return None if text is None else text.replace(shown(Path(path)), _NAME, 1)


def index_clips(root: str | Path, clips: Sequence[str], cache: str | Path | None = None) -> Counts:
    """Count the frames of clips below a folder, looking into those alone that are not known."""
    index, paths = VideoIndex(index_file(cache)), [f"{root}/{clip}" for clip in clips]
    rows = index.find("seen", np.fromiter(map(identity, paths), np.int64, len(paths)))
    frames, known, missing = np.zeros(len(paths), np.int32), rows >= 0, np.flatnonzero(rows < 0)
    frames[known] = index.rows["frames"][rows[known]]
    noted = np.flatnonzero(known)[np.isin(index.rows["key"][rows[known]], list(index.notes))]
    notes = {int(n): index.notes[int(index.rows["key"][rows[n]])] for n in noted}
    looked = _look_into(index, [paths[n] for n in missing], title=Path(root).name)
    for number, found in zip(missing.tolist(), looked, strict=True):
        frames[number] = found.frames
        if found.error or found.damage:
            notes[number] = (found.error, found.damage)
    errors: dict[int, str] = {}
    for number, (error, damage) in sorted(notes.items()):
        if error is not None:
            errors[number] = error.replace(_NAME, shown(paths[number]))
        if damage is not None:
            warn_once(damage.replace(_NAME, shown(paths[number])))
    return Counts(frames, errors)


def _look_into(index: VideoIndex, paths: Sequence[str], title: str) -> Iterator[Found]:
    """Look into clips in parallel, and add them to the index a part at a time."""
    if not paths:
        return
    pool, console = ThreadPoolExecutor(os.cpu_count()), Console(stderr=True)

    def look() -> Iterator[Found]:
        for start in range(0, len(paths), _PART):
            part: list[Found] = []
            try:
                for found in pool.map(index.look, paths[start : start + _PART]):
                    part.append(found)
                    yield found
            finally:
                index.add(part)

    try:
        yield from track(look(), f"Counting frames in {title}", total=len(paths), console=console)
    finally:
        pool.shutdown(cancel_futures=True)


def known_table(path: str | Path, cache: str | Path | None = None) -> PacketTable | None:
    """Return the packet table of a video, if the index has one of it."""
    if not (file := index_file(cache)).is_file():
        return None
    try:
        with closing(sqlite3.connect(file, timeout=60)) as database:
            wanted = "SELECT packed FROM tables WHERE key = ?"
            row = database.execute(wanted, [_key(str(path))]).fetchone()
            return PacketTable.unpack(row[0]) if row else None
    except (sqlite3.Error, zlib.error, ValueError):
        return None
