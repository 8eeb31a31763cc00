"""The gallery's page: what it is made of, and the templates beside this file that lay it out.

Every text and attribute is escaped on its way in, and the page is written as it is rendered, so
that one video at a time is in memory.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from ardiffusion import __version__
from ardiffusion.files import atomic_write
from ardiffusion.metrics.score import Score

PICTURES = ("PNG", "JPEG", "WEBP")


@dataclass
class Table:
    """A table of texts and numbers: its caption, columns, rows of cells, and a note below it."""

    title: str
    columns: list[str]
    rows: list[list[str | float]]
    note: str = ""


@dataclass
class Figure:
    """A PNG, JPEG or WebP file; its caption is also read out in its place."""

    path: Path
    caption: str = ""


@dataclass
class Section:
    """A part of the page."""

    title: str  # its heading
    text: str = ""  # paragraphs below it, apart by blank lines
    columns: Mapping[str, Path] = field(default_factory=dict)  # folders of videos by column
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    scores: Sequence[Path | Score] = ()  # records or their files


def write_page(path: Path, **shown: object) -> None:
    """Fill page.html with what is shown and write it; it appears, whole, when it is done."""
    loader = PackageLoader("ardiffusion.tools", "galleries")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    for one in (base64, measured, number, setting, sha256, warned):
        environment.filters[one.__name__] = one
    style, *scripts = (
        loader.get_source(environment, name)[0] for name in ("page.css", "row.js", "page.js")
    )
    page = environment.get_template("page.html").stream(
        style=Markup(style), script=Markup("\n".join(scripts)), version=__version__, **shown
    )
    with atomic_write(path) as partial:
        page.dump(str(partial), encoding="utf-8", errors="backslashreplace")  # halves of letters


def sha256(text: str) -> str:
    return base64(hashlib.sha256(text.encode()).digest())


def base64(data: bytes) -> str:
    return b64encode(data).decode()


def picture(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"Figure {path} does not exist: correct --figures.")
    try:
        with Image.open(path, formats=PICTURES) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no PNG, JPEG or WebP file: correct --figures.") from error
    return f"data:{image.get_format_mimetype()};base64,{base64(path.read_bytes())}"


def number(value: float) -> str:
    """Write a number with four digits that count, whole ones as they are."""
    if isinstance(value, float):
        return f"{value:.2f}" if 1 <= abs(value) < 1e6 else f"{value:.4g}"
    return str(value)


def setting(value: object) -> str:
    """Write a value of a settings table: lists with commas, nothing as a dash."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {setting(inner)}" for name, inner in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(setting(inner) for inner in value) or "–"
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def read_score(score: Path | Score) -> Score:
    if isinstance(score, Score):
        return score
    if not score.is_file():
        raise FileNotFoundError(f"Score {score} does not exist: correct --scores.")
    return Score.load(score)


def by_protocol(scores: Iterable[Score]) -> list[list[Score]]:
    """Group scores that were measured alike, numbers of two protocols do not compare."""
    groups: dict[str, list[Score]] = {}
    for score in scores:
        alike = {name: value for name, value in score.compared().items() if name != "metric"}
        groups.setdefault(json.dumps(alike, sort_keys=True, default=str), []).append(score)
    return list(groups.values())


def warned(scores: Sequence[Score]) -> dict[str, list[str]]:
    """Name the scores that each warning is about."""
    found: dict[str, list[str]] = {}
    for score in scores:
        for warning in score.warnings:
            found.setdefault(warning, []).append(f"{score.metric} of {measured(score)}")
    return found


def measured(score: Score) -> str:
    return str(score.data.get("fake") or score.data.get("real") or "–")
