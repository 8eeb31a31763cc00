"""Which videos a section shows, and which of them share a row.

Videos of one name stand side by side, else those of one place in the order. Rows say the same
thing about every column only where the videos belong together, so the columns that were paired by
order alone are told to the reader.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track

from ardiffusion.data.layouts import find_clips, without_suffix
from ardiffusion.data.samples import read_samples, shared_settings
from ardiffusion.tools.galleries.media import Media, prepare

OWN = ("file", "index", "label")  # what a sample has for itself


@dataclass
class Clip:
    """A video of a column: its path below the folder, its class and its line in samples.jsonl."""

    name: str
    path: Path
    label: str | None = None
    sample: dict[str, Any] = field(default_factory=dict)
    media: Media | None = None  # what plays it on the page, once it is prepared

    @property
    def key(self) -> str:
        """What the same video is called in other columns: its sample index, or path and stem."""
        index = self.sample.get("index")
        return f"{index:06d}" if isinstance(index, int) else without_suffix(self.name)

    @property
    def given(self) -> int:
        """How many of a sample's frames it began with, as its line says."""
        prefix = self.sample.get("prefix")
        frames = prefix.get("frames") if isinstance(prefix, Mapping) else 0
        return frames if isinstance(frames, int) else 0

    @property
    def last_part(self) -> str:
        return PurePosixPath(self.key).name


@dataclass(eq=False)
class GalleryRow:
    """Videos side by side, by their columns."""

    clips: dict[str, Clip] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return without_suffix(next(iter(self.clips.values())).name)

    @property
    def label(self) -> str | None:
        return next((clip.label for clip in self.clips.values() if clip.label is not None), None)

    @property
    def words(self) -> str:
        """What the page's filter finds the row by, in small letters as it searches for them."""
        texts = [self.name, self.label or "", *self.clips]
        for clip in self.clips.values():
            texts.append(f"{clip.name} {clip.label} {json.dumps(clip.sample, ensure_ascii=False)}")
        return " ".join(texts).lower()

    def takes(self, column: str, clip: Clip) -> bool:
        """Say whether a video may join: its place is free and no class contradicts its own."""
        other = self.label
        return column not in self.clips and (None in (other, clip.label) or other == clip.label)


class Videos(NamedTuple):
    """The videos of a section, as the page shows them."""

    rows: list[GalleryRow]
    ordered: list[str]  # columns that were paired by order alone
    left_out: int  # rows that the limit left out
    settings: dict[str, dict[str, Any]]  # what all samples of a column share, where they do
    broken: list[str]  # sentences about the videos that cannot be shown


def collect_videos(folders: Mapping[str, Path], stem: Path, every: int, limit: int) -> Videos:
    """Read and pair the videos of a section's columns, and prepare those of the selected rows.

    Files of what is encoded anew begin with `stem`, and ids on the page with its name.
    """
    columns = {name: read_clips(name, Path(folder)) for name, folder in folders.items()}
    rows, ordered = pair_clips(columns)
    selected = select_rows(rows, limit=limit)
    clips = [clip for row in selected for clip in row.clips.values()]
    targets = [stem.with_name(f"{stem.name}-{i}.mp4") for i in range(len(clips))]
    broken = prepare_clips(clips, targets, every=every)
    for row in selected:
        row.clips = {column: clip for column, clip in row.clips.items() if clip.media}
    shown = [row for row in selected if row.clips]
    if not shown:
        raise ValueError(f"None of {len(clips)} videos can be shown. {broken[0]}")
    said = {name: [c.sample for c in clips if c.sample] for name, clips in columns.items()}
    settings = {name: shared_settings(lines, own=OWN) for name, lines in said.items()}
    return Videos(
        rows=shown,
        ordered=ordered,
        left_out=len(rows) - len(selected),
        settings={name: found for name, found in settings.items() if found},
        broken=broken,
    )


def prepare_clips(clips: Sequence[Clip], targets: Sequence[Path], every: int) -> list[str]:
    """Prepare videos on all cores, and say what is wrong with those that are broken or gone."""

    def attempt(clip: Clip, target: Path) -> str:
        try:
            clip.media = prepare(clip.path, target=target, every=every)
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(attempt, clips, targets)
        bar = track(done, "Preparing videos", total=len(clips), console=Console(stderr=True))
        return [sentence for sentence in bar if sentence]


def read_clips(column: str, folder: Path) -> list[Clip]:
    """List the videos of a column's folder: in the order of their indices, or of their names."""
    samples = read_samples(folder)
    clips = []
    for path, label in find_clips(folder, option=f"column {column!r} of --columns"):
        sample = samples.get(path, {})
        told = sample.get("label")
        named = label if told is None else str(told)
        clips.append(Clip(path, path=folder / path, label=named, sample=sample))
    return sorted(clips, key=lambda clip: clip.key) if samples else clips


def pair_clips(columns: Mapping[str, Sequence[Clip]]) -> tuple[list[GalleryRow], list[str]]:
    """Put the videos of all columns into rows.

    A column joins the rows before it by name (sample index, or path without its end, or the file's
    name alone where that is unique) when at least half of what could match does. Else its videos
    are dealt in their order to the rows of their class.

    Returns:
        The rows, and the columns that were paired by order.
    """
    rows: list[GalleryRow] = []
    ordered = []
    for column, clips in columns.items():
        partners = match_by_name(rows, column=column, clips=clips)
        if rows and 2 * sum(row is not None for row in partners) < min(len(rows), len(clips)):
            partners = match_by_order(rows, column=column, clips=clips)
            ordered.append(column)
        for clip, row in zip(clips, partners, strict=True):
            if row is None or column in row.clips:  # "a.mp4" beside "a.gif"
                row = GalleryRow()
                rows.append(row)
            row.clips[column] = clip
    return rows, ordered


def match_by_name(
    rows: Sequence[GalleryRow], column: str, clips: Sequence[Clip]
) -> list[GalleryRow | None]:
    """Find the row of each video by its name, None where there is none."""
    whole = {clip.key: row for row in reversed(rows) for clip in row.clips.values()}
    last: defaultdict[str, set[GalleryRow]] = defaultdict(set)
    for row in rows:
        for clip in row.clips.values():
            last[clip.last_part].add(row)
    own = Counter(clip.last_part for clip in clips)

    def find(clip: Clip) -> GalleryRow | None:
        row = whole.get(clip.key)
        if row is None and own[clip.last_part] == len(last[clip.last_part]) == 1:
            (row,) = last[clip.last_part]
        return row if row is not None and row.takes(column, clip) else None

    return [find(clip) for clip in clips]


def match_by_order(
    rows: Sequence[GalleryRow], column: str, clips: Iterable[Clip]
) -> list[GalleryRow | None]:
    """Give each video the next free row whose class is not another one."""
    partners: list[GalleryRow | None] = []
    free = list(rows)
    for clip in clips:
        place = next((i for i, row in enumerate(free) if row.takes(column, clip)), None)
        partners.append(None if place is None else free.pop(place))
    return partners


def select_rows(rows: Sequence[GalleryRow], limit: int) -> list[GalleryRow]:
    """Keep at most so many rows: full ones first, classes in turn, in their order."""
    turns: defaultdict[str | None, int] = defaultdict(int)
    ranks = []
    for place, row in enumerate(rows):
        ranks.append((-len(row.clips), turns[row.label], place))
        turns[row.label] += 1
    return [rows[place] for place in sorted(place for _, _, place in sorted(ranks)[:limit])]
