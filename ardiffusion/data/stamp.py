"""What tells that a video on disk is still the one that something was computed from."""

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

from ardiffusion.data.pictures import picture_files

PART = 4096  # bytes that are looked at where a file begins, in its middle and where it ends


def file_digest(path: str | Path, size: int) -> str:
    """Hash some of the bytes of a file."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        for start in (0, (size - PART) // 2, size - PART):
            file.seek(max(0, start))
            digest.update(file.read(PART))
    return digest.hexdigest()[:16]


def file_stamp(path: Path) -> str:
    """Say the size, the time and some of the bytes of a file; a folder's size and time."""
    status = path.stat()
    known = f"{status.st_size}:{status.st_mtime_ns}"
    if not stat.S_ISREG(status.st_mode):
        return known
    return f"{known}:{file_digest(path, status.st_size)}"


def stamp(path: Path) -> str:
    """Say what changes with the content of a file, or with any picture of a folder."""
    if not path.is_dir():
        return f"1:{file_stamp(path)}"
    files = picture_files(path)
    looked_at = {files[i] for i in (0, len(files) // 2, -1)} if files else set()
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(f"{file.name}/"))
        with suppress(OSError):  # a dead link has a name alone
            status = file.stat()
            digest.update(f"{status.st_size}/{status.st_mtime_ns}/".encode())
            digest.update(file_stamp(file).encode() if file in looked_at else b"")
    return f"{len(files)}:{digest.hexdigest()}"
