"""Files that appear whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image


@contextmanager
def aside(path: str | Path) -> Iterator[Path]:
    """Give a path to write to, and move it into place unless an error came first."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_json(content: object, path: str | Path) -> None:
    """Write JSON."""
    with aside(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def save_png(picture: Image.Image, path: str | Path) -> None:
    """Write a picture."""
    with aside(path) as partial:
        picture.save(partial, "PNG")
