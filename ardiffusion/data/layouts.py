"""Find the clips of a data set: video files and folders of frames below one root.

- A file with a video suffix is a clip, and so is a folder that holds pictures but neither videos
  nor other clips: `sky_train/<video>/<part>/*.jpg` and TaiChi's folders named `*.mp4` are clips.
- Classes are the folders of the layout `root/<class>/<video>` (or `root/<split>/<class>/<video>`),
  when every clip is a video in such a folder and there are at least two of them. Folders named
  like a split (train, test, ...) are no classes, and folders of frames have none: the layouts
  `<class>/<clip>/<frame>` and `<video>/<part>/<frame>` cannot be told apart.
- Hidden files, `__MACOSX` and UCF-101's `ucfTrainTestlist` are passed over.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ardiffusion.data.video import PICTURES

VIDEOS = frozenset(
    ".mp4 .avi .mov .mkv .webm .gif .m4v .mpg .mpeg .wmv .flv .ts .3gp .ogv".split()
)
SPLITS = frozenset(
    "train training val valid validation test testing sky_train sky_test all".split()
)
_PASSED_OVER = frozenset({"__macosx", "ucftraintestlist"})


class Entry(NamedTuple):
    """A clip: its path below the root, with forward slashes, and its class."""

    path: str
    label: str | None


def without_suffix(path: str) -> str:
    """Drop a path's suffix if it is that of a video; other dots are part of the name."""
    return path[: -len(suffix)] if (suffix := _suffix(path)) in VIDEOS else path


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


class _Tree:
    """What one walk over the root finds."""

    def __init__(self) -> None:
        self.videos: list[str] = []
        self.folders: list[str] = []  # of frames
        self.empty: list[str] = []

    def walk(self, folder: Path, below: str, seen: frozenset[str]) -> bool:
        """Note the clips under a folder; say whether there are any or it is a clip itself."""
        real = os.path.realpath(folder)
        if real in seen:  # a link that points upwards
            return False
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        entries = [
            e for e in entries if e.name[0] != "." and e.name.casefold() not in _PASSED_OVER
        ]
        children = [e.name for e in entries if e.is_dir()]
        files = [e.name for e in entries if not e.is_dir()]
        videos = [name for name in files if _suffix(name) in VIDEOS]
        self.videos += [below + name for name in videos]
        inner = [
            self.walk(folder / name, below=f"{below}{name}/", seen=seen | {real})
            for name in children
        ]
        if videos or any(inner):
            return True
        is_clip = bool(below) and any(_suffix(name) in PICTURES for name in files)
        if is_clip:
            self.folders.append(below.removesuffix("/"))
        elif below and not entries:
            self.empty.append(below.removesuffix("/"))
        return is_clip


def _class_of(path: str) -> str | None:
    """Name the folder of `<class>/<video>`, a folder named like a split left out."""
    folders = PurePosixPath(path).parts[:-1]
    if folders and folders[0].casefold() in SPLITS:
        folders = folders[1:]
    return folders[0] if len(folders) == 1 else None


def _labels(paths: list[str]) -> Iterator[str | None]:
    found = [_class_of(path) if _suffix(path) in VIDEOS else None for path in paths]
    distinct = set(found)
    useful = None not in distinct and len(distinct) > 1
    return iter(found if useful else [None] * len(paths))


def find_clips(root: str | Path) -> list[Entry]:
    """List the clips below a folder, sorted by path.

    Args:
        root: Folder of videos, of class folders of videos, or of folders of frames.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"Data folder {root} does not exist: set --data.root to yours.")
    tree = _Tree()
    tree.walk(root, below="", seen=frozenset())
    paths = tree.videos + tree.folders
    if not paths:
        raise ValueError(
            f"Data folder {root} holds no videos and no folders of frames: set --data.root to "
            "a folder of videos, of class folders of videos, or of folders of pictures."
        )
    if tree.folders:  # where clips are folders, an empty one is a clip that went missing
        paths += tree.empty
    paths = sorted(paths)
    return [Entry(path, label) for path, label in zip(paths, _labels(paths), strict=True)]


def class_names(entries: list[Entry]) -> list[str]:
    """List the classes in the order of their labels: 0, 1, ..."""
    return sorted({entry.label for entry in entries if entry.label is not None})
