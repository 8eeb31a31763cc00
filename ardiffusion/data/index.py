"""Count the frames of all clips once, in parallel, and keep the counts outside the data.

A count is kept with the stamp of its clip, so that only new and changed clips are read again. The
cache is one JSON file per root in `$XDG_CACHE_HOME/ardiffusion` (`~/.cache/ardiffusion`).
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

from ardiffusion.data.notices import warn_once
from ardiffusion.data.stamp import file_stamp
from ardiffusion.data.video import examine
from ardiffusion.files import cache_folder, read_text, write_json

_VERSION = 3
_SAVE_EVERY = 30.0  # seconds, so that a killed run has little to repeat
_LISTED = 10  # skipped clips that the warning names; the cache holds all of them
logger = logging.getLogger(__name__)


class Count(NamedTuple):
    """What reading a clip to its end gave: its frames, or why it is of no use, and its damage."""

    frames: int
    error: str | None = None
    damage: str | None = None  # that FFmpeg conceals


def cache_file(root: str | Path, cache: str | Path | None = None) -> Path:
    """Name the index of a root, in a folder or in the user's cache folder."""
    folder = cache_folder() if cache is None else Path(cache).expanduser()
    real = os.path.realpath(root)
    known = hashlib.sha256(os.fsencode(real)).hexdigest()[:12]
    return folder / f"{Path(real).name}-{known}.json"


def _stamp(path: Path) -> str:
    try:
        return file_stamp(path)
    except OSError:
        return ""


def _load(file: Path, stamps: dict[str, str]) -> dict[str, Count]:
    """Read the counts of the clips that have not changed."""
    try:
        stored = json.loads(read_text(file))
        clips = stored["clips"].items() if stored["version"] == _VERSION else ()
        return {
            clip: Count(int(frames), error and str(error), damage and str(damage))
            for clip, (stamp, frames, error, damage) in clips
            if stamps.get(clip) == stamp
        }
    # none yet, or not one of ours
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _save(file: Path, root: Path, stamps: dict[str, str], counts: dict[str, Count]) -> None:
    clips = {clip: [stamps[clip], *count] for clip, count in counts.items()}
    try:
        write_json(file, {"version": _VERSION, "root": str(root), "clips": clips})
    except OSError as error:
        logger.warning("Cannot keep the index of %s (%s): set --data.cache.", root, error)


def _count(path: Path) -> Count:
    try:
        contents = examine(path)
        return Count(frames=contents.frames, damage=contents.damage)
    except (ValueError, OSError) as error:
        return Count(frames=0, error=str(error))


def index_clips(
    root: str | Path, clips: Sequence[str], cache: str | Path | None = None
) -> dict[str, Count]:
    """Count the frames of clips below a folder, from the cache where nothing changed."""
    root, saved = Path(root), time.monotonic()
    file, stamps = cache_file(root, cache), {clip: _stamp(root / clip) for clip in clips}
    counts = _load(file, stamps)
    if missing := [clip for clip in stamps if clip not in counts]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs: dict[Future[Count], str] = {pool.submit(_count, root / c): c for c in missing}
            title, console = f"Counting frames in {root.name}", Console(stderr=True)
            try:
                for job in track(as_completed(jobs), title, total=len(jobs), console=console):
                    counts[jobs[job]] = job.result()
                    if time.monotonic() - saved > _SAVE_EVERY:
                        _save(file, root, stamps, counts)
                        saved = time.monotonic()
            finally:
                pool.shutdown(cancel_futures=True)
                _save(file, root, stamps, counts)
    for damage in (counts[clip].damage for clip in clips):
        if damage is not None:
            warn_once(damage)
    return {clip: counts[clip] for clip in clips}


def usable_clips(
    root: str | Path, counts: dict[str, Count], frames: int, max_broken: float = 0.05
) -> dict[str, int]:
    """Keep the clips of enough frames, list the others, and stop when these are too many.

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
