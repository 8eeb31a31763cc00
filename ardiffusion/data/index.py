"""Count the frames of all clips once, in parallel, and keep the counts outside the data.

A count is kept with the file's size and time, so that only new and changed clips are read again.
The cache is one JSON file per root in `$XDG_CACHE_HOME/ardiffusion` (`~/.cache/ardiffusion`).
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

from ardiffusion.data.video import count_frames

_VERSION = 1
_SAVE_EVERY = 30.0  # seconds, so that a killed run has little to repeat
_LISTED = 10  # skipped clips that the warning names; the cache holds all of them
logger = logging.getLogger(__name__)


class Count(NamedTuple):
    """What reading a clip to its end gave: its frames, or why it cannot be used."""

    frames: int
    error: str | None = None


def cache_file(root: str | Path, cache: str | Path | None = None) -> Path:
    """Name the index of a root, in a folder or in the user's cache folder."""
    if cache is None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        cache = Path(base) / "ardiffusion"
    real = os.path.realpath(root)
    return Path(cache) / f"{Path(real).name}-{hashlib.sha256(real.encode()).hexdigest()[:12]}.json"


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return [0, 0]
    return [status.st_size, status.st_mtime_ns]


def _load(file: Path) -> dict[str, list]:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return stored["clips"] if stored["version"] == _VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or not one of ours
        return {}


def _save(file: Path, root: Path, clips: dict[str, list]) -> None:
    partial = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"version": _VERSION, "root": str(root), "clips": clips})
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, file)
    except OSError as error:
        logger.warning("Cannot keep the index of %s (%s): set --data.cache.", root, error)


def _count(path: Path) -> Count:
    try:
        return Count(frames=count_frames(path))
    except (ValueError, OSError) as error:
        return Count(frames=0, error=str(error))


def _count_all(file: Path, root: Path, stamps: dict[str, list[int]], known: dict) -> None:
    """Count the clips that are not known yet and save now and then."""
    saved = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs: dict[Future[Count], str] = {
            pool.submit(_count, root / clip): clip for clip in stamps if clip not in known
        }
        try:
            for job in track(
                as_completed(jobs),
                total=len(jobs),
                description=f"Counting frames in {root.name}",
                console=Console(stderr=True),
            ):
                known[jobs[job]] = [*stamps[jobs[job]], *job.result()]
                if time.monotonic() - saved > _SAVE_EVERY:
                    _save(file, root, known)
                    saved = time.monotonic()
        finally:
            pool.shutdown(cancel_futures=True)
            _save(file, root, known)


def index_clips(
    root: str | Path, clips: Sequence[str], cache: str | Path | None = None
) -> dict[str, Count]:
    """Count the frames of clips, from the cache where nothing changed.

    Args:
        root: Folder of the data set.
        clips: Paths below it.
        cache: Folder for the index, the user's cache folder by default.
    """
    root = Path(root)
    file = cache_file(root, cache)
    stored = _load(file)
    stamps = {clip: _stamp(root / clip) for clip in clips}
    known = {
        clip: stored[clip]
        for clip, stamp in stamps.items()
        if clip in stored and stored[clip][:2] == stamp
    }
    if len(known) < len(stamps):
        _count_all(file, root, stamps, known)
    return {clip: Count(*known[clip][2:]) for clip in clips}


def usable_clips(
    root: str | Path, counts: dict[str, Count], frames: int, max_broken: float = 0.05
) -> dict[str, int]:
    """Keep the clips that are long enough, list the others, and stop when these are too many.

    Args:
        root: Folder of the data set, for the messages.
        counts: What `index_clips` returned.
        frames: Frames a clip must have.
        max_broken: Largest fraction of clips that may be broken, empty or too short.

    Returns:
        The number of frames of each usable clip.
    """
    usable = {clip: c.frames for clip, c in counts.items() if c.frames >= frames}
    skipped = [
        count.error or f"{Path(root) / clip} has only {count.frames} of {frames} frames."
        for clip, count in counts.items()
        if clip not in usable
    ]
    longest = max((count.frames for count in counts.values()), default=0)
    if not usable and longest > 0:
        raise ValueError(
            f"Every clip under {root} is shorter than the {frames} frames needed (the longest has "
            f"{longest}): lower --data.frames or --data.stride."
        )
    if len(skipped) > max_broken * len(counts):
        raise ValueError(
            f"{len(skipped)} of the {len(counts)} clips under {root} are broken, empty or too "
            f"short, for example: {skipped[0]} Repair them or raise --data.max_broken."
        )
    if skipped:
        more = ["..."] if len(skipped) > _LISTED else []
        lines = "\n  ".join([*skipped[:_LISTED], *more])
        logger.warning(
            "Skipped %d of the %d clips under %s:\n  %s", len(skipped), len(counts), root, lines
        )
    return usable
