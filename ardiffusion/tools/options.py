"""Options of tools, checked before any work is done."""

from pathlib import Path

import torch

LARGEST = 2**63 - 1


def check_option(name: str, value: int | None, low: int, high: int = LARGEST) -> None:
    if value is not None and not low <= value <= high:
        bound = f"at least {low}" if value < low else f"at most {high}"
        raise ValueError(f"--{name} must be {bound}, got {value}.")


def output_file(path: str) -> Path:
    place = Path(path).expanduser()
    if not place.name or place.is_dir():
        raise ValueError(f"--output is {path!r}, which names no file: give one to write to.")
    return place


def device_of(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device is {name!r}, which is no device: use cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device is {name}, but PyTorch finds no GPU here; use cpu.")
    return device
