"""What generated videos begin with: a picture, the end of a video, or a folder of either."""

import hashlib
import os
from collections.abc import Collection, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ardiffusion.data.clips import resize_crop
from ardiffusion.data.layouts import VIDEOS
from ardiffusion.data.pictures import PICTURES
from ardiffusion.data.samples import read_samples
from ardiffusion.data.video import count_frames, read_frames


class Prefix(NamedTuple):
    """Frames to begin with.

    Attributes:
        video: The frames, uint8 (P, 3, H, W).
        label: Their class, if that is known.
        description: What `samples.jsonl` says of them.
    """

    video: Tensor
    label: str | None
    description: dict[str, Any]


def read_prefixes(
    source: str,
    resolution: int,
    frames: int,
    classes: Collection[str] = (),
    most: int | None = None,
) -> list[Prefix]:
    """Read what videos begin with, scaled and cropped as training data.

    Args:
        source: A picture, a video, or a folder of either, directly or in folders named as the
            classes; they are taken in the order of their names, of each class in turn, without
            hidden ones.
        resolution: Height and width of the frames.
        frames: Frames of each video at most, its last ones.
        classes: Names of the classes there are.
        most: How many to read; all if not given.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If it holds neither pictures nor videos, or a broken one.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no picture, video or folder {source}; check --prefix.")
    root, paths = (path, inside(path, classes)) if path.is_dir() else (path.parent, [path])
    if not paths:
        raise ValueError(f"--prefix {source} holds neither pictures nor videos.")
    paths = paths[:most]
    return [
        read_prefix(one, resolution=resolution, frames=frames, root=root, label=label)
        for one, label in zip(paths, labels_of(paths, classes), strict=True)
    ]


def inside(folder: Path, classes: Collection[str]) -> list[Path]:
    """List the pictures and videos of a folder and of the class folders in it, each in turn."""
    folders = [folder, *(folder / name for name in classes if (folder / name).is_dir())]
    named = (sorted(filter(is_taken, one.iterdir())) for one in folders)
    return [path for turn in zip_longest(*named) for path in turn if path]


def labels_of(paths: Sequence[Path], classes: Collection[str]) -> list[str | None]:
    """Tell the classes of files: by the log of generated ones, else by the names of folders."""
    logs = {folder: read_samples(folder) for folder in {path.parent for path in paths}}
    told = [
        (logs[path.parent].get(path.name, {}).get("label"), path.absolute().parent.name)
        for path in paths
    ]
    return [next((name for name in names if name in classes), None) for names in told]


def is_taken(path: Path) -> bool:
    """Say whether an entry of a folder is taken: hidden files and folders are not."""
    known = path.suffix.lower() in PICTURES | VIDEOS
    return known and path.name[0] != "." and not os.path.isdir(path)


def read_prefix(path: Path, resolution: int, frames: int, root: Path, label: str | None) -> Prefix:
    """Read a picture, or the last frames of a video, named as below its root."""
    start = max(count_frames(path) - frames, 0)
    video = read_frames(path, start=start)
    with open(path, "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    name = path.relative_to(root).as_posix()
    said = {"file": name, "start": start, "frames": len(video), "sha256": content}
    return Prefix(resize_crop(video, resolution), label, said)
