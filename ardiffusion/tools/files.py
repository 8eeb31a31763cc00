"""Files that appear whole or not at all."""

import json
from pathlib import Path

from PIL import Image

from ardiffusion.training.aside import written_aside


def save_json(content: object, path: str | Path) -> None:
    """Write JSON."""
    with written_aside(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def save_png(picture: Image.Image, path: str | Path) -> None:
    """Write a picture."""
    with written_aside(path) as partial:
        picture.save(partial, "PNG")
