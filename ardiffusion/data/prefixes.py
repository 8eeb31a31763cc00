"""What generated videos begin with: a picture, the end of a video, or a folder of either."""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ardiffusion.data.clips import resize_crop
from ardiffusion.data.layouts import VIDEOS
from ardiffusion.data.pictures import PICTURES
from ardiffusion.data.video import count_frames, read_frames


class Prefix(NamedTuple):
    """Frames to begin with, uint8 (P, 3, H, W), and what `samples.jsonl` says of them."""

    video: Tensor
    description: dict[str, Any]


def read_prefixes(source: str, resolution: int, frames: int) -> list[Prefix]:
    """Read what videos begin with, scaled and cropped as training data.

    Args:
        source: A picture, a video, or a folder of either, which are taken in the order of their
            names, without hidden ones.
        resolution: Height and width of the frames.
        frames: Frames of each video at most, its last ones.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If it holds neither pictures nor videos, or a broken one.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no picture, video or folder {source}; check --prefix.")
    paths = sorted(filter(is_taken, path.iterdir())) if path.is_dir() else [path]
    if not paths:
        raise ValueError(f"--prefix {source} holds neither pictures nor videos.")
    return [read_prefix(one, resolution=resolution, frames=frames) for one in paths]


def is_taken(path: Path) -> bool:
    """Say whether an entry of a folder is taken: hidden files and folders are not."""
    known = path.suffix.lower() in PICTURES | VIDEOS
    return known and path.name[0] != "." and not os.path.isdir(path)


def read_prefix(path: Path, resolution: int, frames: int) -> Prefix:
    """Read a picture, or the last frames of a video."""
    start = max(count_frames(path) - frames, 0)
    video = read_frames(path, start=start)
    with open(path, "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    said = {"file": path.name, "start": start, "frames": len(video), "sha256": content}
    return Prefix(resize_crop(video, resolution), said)
