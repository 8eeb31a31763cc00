"""Options of tools, checked before any work is done."""

from contextlib import suppress
from pathlib import Path

import torch


def check_named(argument: str, path: str) -> None:
    """Raise if a path is the empty text, which would be the folder that one happens to be in."""
    if not path:
        raise ValueError(f"{argument} is empty: name a path, or . for the folder you are in.")


def output_file(path: str | Path, mark: bytes, option: str = "--output") -> Path:
    """Return a file to write to, which replaces one of its kind, but no other.

    Args:
        path: The file.
        mark: What stands in the first 1024 bytes of files of its kind.
        option: What names it.
    """
    place = Path(path).expanduser()
    if not place.name or (place.exists() and not place.is_file()):
        raise ValueError(f"{option} is {str(path)!r}, which names no file: give one to write to.")
    with suppress(FileNotFoundError), open(place, "rb") as file:
        if (begin := file.read(1024)) and mark not in begin:
            raise ValueError(f"{option} would replace {place}, another kind of file: move it.")
    return place


def device_of(name: str) -> torch.device:
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device is {name!r}, which is not here: use cpu or cuda.") from error
    return torch.device(name)
