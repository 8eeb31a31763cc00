"""Videos, scores and figures on one HTML page: `ardiff gallery OUT.html`."""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ardiffusion.nn.sizes import check_range
from ardiffusion.tools.galleries.page import (
    Figure,
    Section,
    Table,
    by_protocol,
    picture,
    read_score,
    write_page,
)
from ardiffusion.tools.galleries.rows import collect_videos
from ardiffusion.tools.options import output_file

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

    The options are those of `gallery`; `settings` is what everything on it was made with.
    """
    check_range("--{}", 1, every=every, limit=limit)
    pictures = {f.path: picture(f.path) for section in sections for f in section.figures}
    scores = [by_protocol(read_score(score) for score in section.scores) for section in sections]
    path = output_file(path, b"Content-Security-Policy", option="OUT")
    with tempfile.TemporaryDirectory() as scratch:
        videos = {
            i: collect_videos(section.columns, Path(scratch, f"v{i}"), every=every, limit=limit)
            for i, section in enumerate(sections)
            if section.columns
        }
        page = {"title": title, "text": text, "settings": settings, "sections": sections}
        write_page(path, **page, pictures=pictures, scores=scores, videos=videos)
    broken = [sentence for one in videos.values() for sentence in one.broken]
    for sentence in broken:
        warnings.warn(f"Left out of the gallery: {sentence}", stacklevel=2)
    size = path.stat().st_size
    if size > LARGE:
        warnings.warn(
            f"{path} has {size / 1e6:.0f} MB, which browsers take long to open: show fewer rows "
            f"with --limit, now {limit}.",
            stacklevel=2,
        )
    return {
        "out": str(path),
        "bytes": size,
        "rows": sum(len(one.rows) for one in videos.values()),
        "videos": sum(len(row.clips) for one in videos.values() for row in one.rows),
        "left_out": sum(one.left_out for one in videos.values()),
        "broken": broken,
    }


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
    paths = [Path(figure) for figure in figures or ()]
    sections = [
        Section("Scores", scores=[Path(score) for score in scores or ()]),
        Section("Figures", figures=[Figure(path, path.stem.replace("_", " ")) for path in paths]),
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
