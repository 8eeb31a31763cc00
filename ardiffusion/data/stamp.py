"""What tells that a video on disk is still the one that something was computed from."""

import hashlib
from pathlib import Path

from ardiffusion.data.video import picture_files


def stamp(path: Path) -> str:
    """Say what changes with the content of a file, or with any picture of a folder."""
    if not path.is_dir():
        stat = path.stat()
        return f"1:{stat.st_size}:{stat.st_mtime_ns}"
    files = picture_files(path)
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(f"{file.name}/{stat.st_size}/{stat.st_mtime_ns}/".encode())
    return f"{len(files)}:{digest.hexdigest()}"
