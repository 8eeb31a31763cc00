"""Files of tensors, mapped into memory; nothing that a file may contain is ever run."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
SUFFIXES = (".safetensors", *PICKLES)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the notes of a safetensors file.

    Raises:
        ValueError: If it is not whole.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"There is no file {path}.") from error
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); fetch or copy it again."
        ) from error


def read_pickle(path: Path) -> dict[str, Any]:
    """Return what a file of torch.save holds: tensors, numbers and texts, nothing else.

    Raises:
        ValueError: If it holds anything else, or is not whole.
    """
    try:
        found = load_weights_only(path)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} is refused: it is not whole, or holds more than weights and could run code; "
            "get its weights as safetensors."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, not a table of weights.")
    return found


def load_weights_only(path: Path) -> object:
    """Map a file of torch.save into memory, or read it where it has the format before 1.6."""
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
