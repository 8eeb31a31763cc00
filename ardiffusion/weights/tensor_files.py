"""Files of tensors, mapped into memory; nothing that a file may contain is ever run.

A flipped bit in a weight changes results without a word, and torch.load does not look. The zip
archives that torch.save writes hold a CRC-32 of each tensor; comparing them takes 0.2 s per GB,
less than half of loading.
"""

import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ardiffusion.files import PICKLED

SUFFIXES = (".safetensors", *PICKLED)  # what files of weights are called
UNREADABLE = (
    *(EOFError, LookupError, OSError, RuntimeError, ValueError, pickle.PickleError),
    SafetensorError,  # torch.load goes by the name where a file is called .safetensors
)
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(NotImplementedError, RuntimeError, ValueError),  # of methods that torch.save does not use
)


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what a file of weights holds, and the notes of a safetensors file.

    Its content says which kind it is, whatever it is called.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    with open(path, "rb") as file:
        start = file.read(16)
    if start[:2] == b"PK" or start[:1] == b"\x80":
        check_intact(path)
        return read_pickle(path), {}
    length = struct.unpack("<Q", start[:8])[0] if len(start) == 16 else 0
    if (start[8:9] == b"{" and length < 1 << 40) or path.suffix == ".safetensors":
        return read_safetensors(path)
    raise ValueError(
        f"{path} holds no weights: give a file of safetensors or torch.save, such as model"
        f"{', model'.join(SUFFIXES)}."
    )


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
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

    It is mapped into memory where it has the format since torch 1.6.
    """
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"PK"
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except PermissionError:
        raise
    except UNREADABLE as error:
        raise ValueError(
            f"{path} is refused: it is not whole, or holds more than weights and could run code; "
            "get its weights as safetensors."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, not a table of weights.")
    return found


def check_intact(path: str | Path) -> None:
    """Raise if a zip archive's checksums are not those of its content.

    Files of other formats, or cut short, are left to whoever loads them.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except DAMAGE as error:
        damaged = str(error)
    if damaged is not None:
        raise ValueError(
            f"{path} is damaged ({damaged} is not what was written): copy it again, or use "
            "another checkpoint."
        )
