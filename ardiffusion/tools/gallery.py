"""Videos, scores and figures on one HTML page: `ardiff gallery OUT.html`."""

import base64
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ardiffusion.files import atomic_write
from ardiffusion.tools.galleries.collect import Shown, Videos, collect
from ardiffusion.tools.galleries.page import frame, section
from ardiffusion.tools.galleries.scores import read_score
from ardiffusion.tools.galleries.sections import Figure, Section, Table

__all__ = ["Figure", "Section", "Table", "gallery", "write_gallery"]

LARGE = 200e6  # bytes


def write_gallery(
    path: str | Path,
    title: str,
    sections: Sequence[Section],
    text: str = "",
    settings: Mapping[str, Any] | None = None,
    every: int = 4,
    limit: int = 200,
) -> dict[str, Any]:
    """Write a page that carries all it shows; it appears, whole, when it is done.

    Args:
        path: The HTML file to write.
        title: Title of the page.
        sections: What it shows.
        text: What it says below the title; paragraphs are apart by blank lines.
        settings: What everything on it was made with.
        every: Step between two frames in the strips of frames.
        limit: Rows of videos per section at most.

    Returns:
        What was written: bytes, numbers of rows and videos, and sentences about broken videos.
    """
    for name, value in {"every": every, "limit": limit}.items():
        if value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}.")
    path = Path(path)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        videos: list[Videos | None] = []
        parts = []
        for i, part in enumerate(sections):
            scores = [read_score(score) for score in part.scores]
            found = None
            if part.columns:
                found = collect(part.columns, scratch, prefix=f"v{i}-", every=every, limit=limit)
            videos.append(found)
            parts.append(section(part, place=i, videos=found, scores=scores))
        names = [part.title for part in sections]
        before, after = frame(title, text=text, sections=parts, names=names, settings=settings)
        there = [found for found in videos if found is not None]
        shown = [video for found in there for video in found.shown]
        size = save(path, before=before, shown=shown, after=after)
    broken = [sentence for found in there for sentence in found.broken]
    for sentence in broken:
        warnings.warn(f"Left out of the gallery: {sentence}", stacklevel=2)
    if size > LARGE:
        warnings.warn(
            f"{path} has {size / 1e6:.0f} MB, which browsers take long to open: show fewer rows "
            f"with --limit, now {limit}.",
            stacklevel=2,
        )
    return {
        "out": str(path),
        "bytes": size,
        "rows": sum(len(found.rows) for found in there),
        "videos": len(shown),
        "left_out": sum(found.left_out for found in there),
        "broken": broken,
    }


def save(path: Path, before: str, shown: Iterable[Shown], after: str) -> int:
    """Write a page aside and move it into place; return its size in bytes.

    Raises:
        OSError: If it cannot be written, with a sentence that names the file.
    """
    try:
        with (
            atomic_write(path) as partial,
            open(partial, "w", encoding="utf-8", newline="\n") as file,
        ):
            file.write(before)
            for video in shown:
                file.write(block(video.id, video.media.path.read_bytes()))
                file.write(block(f"{video.id}-strip", video.media.strip))
            file.write(after)
    except OSError as error:
        raise OSError(f"Cannot write {path} ({error.strerror}): choose another place.") from error
    return path.stat().st_size


def block(id_: str, data: bytes) -> str:
    """Return bytes as an element that the page's script reads and nobody runs."""
    text = base64.b64encode(data).decode()
    return f'<script type="text/plain" id="{id_}">{text}</script>\n'


def gallery(
    out: str,
    columns: dict[str, str] | None = None,
    scores: list[str] | None = None,
    figures: list[str] | None = None,
    title: str = "Generated videos",
    text: str = "",
    every: int = 4,
    limit: int = 200,
) -> dict[str, Any]:
    """Write a self-contained page with videos side by side, scores and figures.

    Args:
        out: The HTML file to write.
        columns: Folders of videos by the names of their columns, as
            '{real: data/sky, generated: samples}'. Videos of one name, or sample index, share a
            row; where names differ, so do videos of one place in the order of their class.
        scores: Files of score records, as [fvd.json,psnr.json]; each protocol has a table.
        figures: Pictures (PNG, JPEG or WebP), as [curve.png].
        title: Title of the page.
        text: What it says below the title; paragraphs are apart by blank lines.
        every: Step between two frames in the strips of frames.
        limit: Rows of videos at most.
    """
    sections = [
        Section("Scores", scores=[Path(score) for score in scores or ()]),
        Section("Figures", figures=[named_figure(Path(path)) for path in figures or ()]),
        Section("Videos", columns={name: Path(path) for name, path in (columns or {}).items()}),
    ]
    sections = [part for part in sections if part.scores or part.figures or part.columns]
    if not sections:
        raise ValueError("There is nothing to show: give --columns, --scores or --figures.")
    result = write_gallery(
        out, title=title, sections=sections, text=text, every=every, limit=limit
    )
    print(f"{out}: {result['bytes'] / 1e6:.1f} MB")
    return result


def named_figure(path: Path) -> Figure:
    """Return a figure whose caption is its file's name."""
    return Figure(path, caption=path.stem.replace("_", " "))
