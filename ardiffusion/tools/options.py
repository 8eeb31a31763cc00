"""Options of tools, checked before any work is done."""

from pathlib import Path

import torch


def check_named(argument: str, path: str) -> None:
    """Raise if a path is the empty text, which would be the folder that one happens to be in."""
    if not path:
        raise ValueError(f"{argument} is empty: name a path, or . for the folder you are in.")


def output_file(path: str, option: str = "--output") -> Path:
    place = Path(path).expanduser()
    if not place.name or (place.exists() and not place.is_file()):
        raise ValueError(f"{option} is {path!r}, which names no file: give one to write to.")
    return place


def device_of(name: str) -> torch.device:
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device is {name!r}, which is not here: use cpu or cuda.") from error
    return torch.device(name)
