"""The page around a gallery's videos, as HTML."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from ardiffusion import __version__
from ardiffusion.metrics.score import Score
from ardiffusion.tools.galleries.collect import Videos
from ardiffusion.tools.galleries.markup import Markup, definitions, element, join, table
from ardiffusion.tools.galleries.rows import video_row
from ardiffusion.tools.galleries.scores import score_tables
from ardiffusion.tools.galleries.sections import Figure, Section

PICTURES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
SPLIT = "<!-- videos -->"


def frame(
    title: str,
    text: str,
    sections: Sequence[Markup],
    names: Sequence[str],
    settings: Mapping[str, Any] | None,
) -> tuple[str, str]:
    """Return what comes before the videos' data on the page, and what comes after.

    Args:
        title: Title of the page.
        text: Paragraphs below it.
        sections: The sections.
        names: Their titles.
        settings: What everything on the page was made with.
    """
    style = source("page.css")
    script = "\n".join(source(name) for name in ("row.js", "page.js"))
    before, after = source("page.html").split(SPLIT)
    chosen = element("details", element("summary", "Settings"), definitions(settings or {}))
    links = [
        element("a", name, href=f"#section-{i}") for i, name in enumerate(names) if len(names) > 1
    ]
    parts = {
        "title": escape(title),
        "lead": join(*(element("p", one, class_="lead") for one in paragraphs(text))),
        "version": __version__,
        "policy": policy(style, script=script),
        "style": style,
        "script": script,
        "nav": element("nav", *links, aria_label="Sections") if links else "",
        "settings": element("div", chosen, class_="settings") if settings else "",
        "sections": join(*sections),
    }
    return Template(before).substitute(parts), Template(after).substitute(parts)


def source(name: str) -> str:
    """Read a file of the template."""
    return files("ardiffusion.tools.galleries").joinpath(name).read_text(encoding="utf-8")


def policy(style: str, script: str) -> str:
    """Return a Content-Security-Policy: only our style and script run, and nothing leaves."""
    hashes = (hashlib.sha256(text.encode()).digest() for text in (style, script))
    style_hash, script_hash = (base64.b64encode(digest).decode() for digest in hashes)
    return (
        "default-src 'none'; img-src data: blob:; media-src blob:; base-uri 'none'; "
        f"form-action 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'"
    )


def paragraphs(text: str) -> list[str]:
    """Split a text where it has blank lines."""
    return [part for part in text.split("\n\n") if part.strip()]


def section(part: Section, place: int, videos: Videos | None, scores: Sequence[Score]) -> Markup:
    """Return a section: text, tables, figures, scores, videos."""
    tables = [table(t.title, t.columns, t.rows, t.note) for t in part.tables]
    id_ = f"section-{place}"
    return element(
        "section",
        element("h2", part.title, id=f"{id_}-title"),
        *(element("p", text) for text in paragraphs(part.text)),
        *tables,
        *(figure(one) for one in part.figures),
        score_tables(scores) if scores else "",
        gallery(videos) if videos is not None else "",
        id=id_,
        aria_labelledby=f"{id_}-title",
    )


def figure(one: Figure) -> Markup:
    """Return a picture, which the page carries itself.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is no picture that browsers show.
    """
    path = Path(one.path)
    kind = PICTURES.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path} is no PNG, JPEG or WebP file: correct --figures.")
    if not path.is_file():
        raise FileNotFoundError(f"Figure {path} does not exist: correct --figures.")
    data = f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    image = element("img", src=data, alt=one.caption or path.stem, loading="lazy")
    return element("figure", image, element("figcaption", one.caption) if one.caption else "")


def counted(count: int, thing: str) -> str:
    """Say how many things are, as the start of a sentence."""
    return f"1 {thing} is" if count == 1 else f"{count} {thing}s are"


def gallery(videos: Videos) -> Markup:
    """Return the rows of videos, with what to know about them."""
    notes = [
        f"Videos of {name} stand beside the others by their order alone"
        " (within a class where there are classes): compare kinds, not pairs."
        for name in videos.ordered
    ]
    if videos.left_out:
        notes.append(f"{counted(videos.left_out, 'more row')} not shown.")
    if videos.broken:
        notes.append(f"{counted(len(videos.broken), 'video')} broken and not shown.")
    settings = {name: values for name, values in videos.settings.items() if values}
    made = [
        element("div", element("h3", name), definitions(values))
        for name, values in settings.items()
    ]
    folded = element(
        "details",
        element("summary", "Settings of the samples"),
        element("div", *made, class_="columns"),
    )
    rows = [video_row(row, columns=videos.columns) for row in videos.rows]
    return element(
        "div",
        *(element("p", note, class_="note") for note in notes),
        folded if made else "",
        element("div", *rows, class_="rows", data_columns=len(videos.columns)),
        element("p", "No row matches the filter.", class_="none", hidden=True),
        class_="gallery",
    )
