"""What a gallery is made of: sections with columns of videos, tables, figures and scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Table:
    """A table of texts and numbers.

    Args:
        title: Its caption.
        columns: Names of the columns.
        rows: One list of cells per row.
        note: A sentence below it.
    """

    title: str
    columns: list[str]
    rows: list[list[str | float]]
    note: str = ""


@dataclass
class Figure:
    """A picture.

    Args:
        path: The PNG, JPEG or WebP file.
        caption: What it shows; also read out in its place.
    """

    path: Path
    caption: str = ""


@dataclass
class Section:
    """A part of the page.

    Args:
        title: Its heading.
        text: Paragraphs below it, apart by blank lines.
        columns: Folders of videos by the names of their columns.
        tables: Tables.
        figures: Pictures.
        scores: Score records or their files.
    """

    title: str
    text: str = ""
    columns: Mapping[str, Path] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    scores: Sequence[Path | dict[str, Any]] = ()
