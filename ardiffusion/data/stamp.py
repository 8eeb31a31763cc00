"""What tells that a video on disk is still the one that something was computed from."""

from pathlib import Path

from ardiffusion.data.video import picture_files


def stamp(path: Path) -> str:
    """Say what changes with the content of a file, or of the pictures of a folder."""
    files = picture_files(path) if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    size, latest = sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)
    return f"{len(files)}:{size}:{latest}"
