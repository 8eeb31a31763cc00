"""Which videos share a row of a gallery: those of one name, else those of one place in the order.

Rows say the same thing about every column only where the videos belong together, so the columns
that were paired by order alone are told to the reader.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ardiffusion.tools.galleries.clips import Clip


@dataclass
class Row:
    """Videos side by side, by their columns."""

    clips: dict[str, Clip] = field(default_factory=dict)

    @property
    def label(self) -> str | None:
        """The class of the first video that has one."""
        return next((clip.label for clip in self.clips.values() if clip.label is not None), None)

    def takes(self, column: str, clip: Clip) -> bool:
        """Say whether a video may join: its place is free and no class contradicts its own."""
        other = self.label
        return column not in self.clips and (None in (other, clip.label) or other == clip.label)


def pair(columns: Mapping[str, Sequence[Clip]]) -> tuple[list[Row], list[str]]:
    """Put the videos of all columns into rows.

    A column joins the rows before it by name (sample index, or path without its end, or the file's
    name alone where that is unique) when at least half of what could match does. Else its videos
    are dealt in their order to the rows of their class.

    Returns:
        The rows, and the columns that were paired by order.
    """
    rows: list[Row] = []
    ordered = []
    for column, clips in columns.items():
        partners = match(rows, column=column, clips=clips)
        if rows and 2 * sum(row is not None for row in partners) < min(len(rows), len(clips)):
            partners = deal(rows, column=column, clips=clips)
            ordered.append(column)
        for clip, row in zip(clips, partners, strict=True):
            if row is None or column in row.clips:  # "a.mp4" beside "a.gif"
                row = Row()
                rows.append(row)
            row.clips[column] = clip
    return rows, ordered


def match(rows: Sequence[Row], column: str, clips: Sequence[Clip]) -> list[Row | None]:
    """Find the row of each video by its name, None where there is none."""
    whole: dict[str, Row] = {}
    last: dict[str, Row] = {}
    seen = Counter(name for row in rows for name in {last_part(c) for c in row.clips.values()})
    own = Counter(last_part(clip) for clip in clips)
    for row in rows:
        for clip in row.clips.values():
            whole.setdefault(clip.key, row)
            if seen[last_part(clip)] == own[last_part(clip)] == 1:
                last.setdefault(last_part(clip), row)
    found = (whole.get(clip.key) or last.get(last_part(clip)) for clip in clips)
    return [
        row if row is not None and row.takes(column, clip) else None
        for row, clip in zip(found, clips, strict=True)
    ]


def last_part(clip: Clip) -> str:
    return PurePosixPath(clip.key).name


def deal(rows: Sequence[Row], column: str, clips: Iterable[Clip]) -> list[Row | None]:
    """Give each video the next free row whose class is not another one."""
    partners: list[Row | None] = []
    free = list(rows)
    for clip in clips:
        place = next((i for i, row in enumerate(free) if row.takes(column, clip)), None)
        partners.append(None if place is None else free.pop(place))
    return partners


def choose(rows: Sequence[Row], limit: int) -> list[Row]:
    """Keep at most so many rows: full ones first, classes in turn, in their order."""
    turns: defaultdict[str | None, int] = defaultdict(int)
    ranks = []
    for place, row in enumerate(rows):
        ranks.append((-len(row.clips), turns[row.label], place))
        turns[row.label] += 1
    return [rows[place] for place in sorted(place for _, _, place in sorted(ranks)[:limit])]
