"""Gathering a section's videos: paired into rows, prepared for browsers, broken ones left out."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from ardiffusion.tools.galleries.clips import Clip, common_settings, read_clips
from ardiffusion.tools.galleries.media import Media, prepare
from ardiffusion.tools.galleries.pairing import choose, pair


@dataclass
class Shown:
    """A video on the page: where it comes from, and what plays it under which id."""

    clip: Clip
    media: Media
    id: str


@dataclass
class Videos:
    """The videos of a section.

    Args:
        columns: Names of the columns.
        rows: What each row shows, by column; a column without a video is left out.
        ordered: Columns that were paired by order alone.
        left_out: How many rows the limit left out.
        settings: What all samples of a column share, by column.
        broken: What is wrong with the videos that cannot be shown.
    """

    columns: list[str]
    rows: list[dict[str, Shown]] = field(default_factory=list)
    ordered: list[str] = field(default_factory=list)
    left_out: int = 0
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    @property
    def shown(self) -> list[Shown]:
        return [video for row in self.rows for video in row.values()]


def collect(
    folders: Mapping[str, Path], scratch: Path, prefix: str, every: int, limit: int
) -> Videos:
    """Read, pair and prepare the videos of a section.

    Raises:
        OSError: If a folder is not there.
        ValueError: If a folder holds no videos, or none that can be shown.
    """
    columns = {name: read_clips(name, Path(folder)) for name, folder in folders.items()}
    rows, ordered = pair(columns)
    chosen = choose(rows, limit=limit)
    found = Videos(columns=list(columns), ordered=ordered, left_out=len(rows) - len(chosen))
    for name, clips in columns.items():
        found.settings[name] = common_settings(clips)
    clips = [(i, name, clip) for i, row in enumerate(chosen) for name, clip in row.clips.items()]
    results = prepare_all([clip for _, _, clip in clips], scratch, prefix=prefix, every=every)
    shown: list[dict[str, Shown]] = [{} for _ in chosen]
    for (i, name, clip), (id_, result) in zip(clips, results, strict=True):
        if isinstance(result, Media):
            shown[i][name] = Shown(clip, media=result, id=id_)
        else:
            found.broken.append(str(result))
    found.rows = [row for row in shown if row]
    if clips and not found.rows:
        raise ValueError(f"None of {len(clips)} videos can be shown. {found.broken[0]}")
    return found


def prepare_all(
    clips: Sequence[Clip], scratch: Path, prefix: str, every: int
) -> list[tuple[str, Media | ValueError]]:
    """Prepare videos on all cores; a broken one gives its error."""

    def one(job: tuple[int, Clip]) -> tuple[str, Media | ValueError]:
        id_ = f"{prefix}{job[0]}"
        try:
            return id_, prepare(job[1].path, target=scratch / f"{id_}.mp4", every=every)
        except ValueError as error:
            return id_, error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(one, enumerate(clips))
        bar = track(
            done,
            total=len(clips),
            description="Preparing videos",
            console=Console(stderr=True),
            disable=not clips,
        )
        return list(bar)
