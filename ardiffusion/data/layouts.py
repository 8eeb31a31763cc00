"""Find the clips of a data set: videos, animations and folders of frames below one root.

- A file with a video suffix is a clip, and so is an animated picture. A folder that holds pictures
  but neither videos nor other clips is one too: `sky_train/<video>/<part>/*.jpg` and TaiChi's
  folders named `*.mp4` are clips.
- Classes are the folders of the layout `root/<class>/<video>` (or `root/<split>/<class>/<video>`),
  when there are at least two and most clips are videos in one; the other clips are left out.
  Folders named like a split (train, test, ...) are no classes, and folders of frames have none:
  the layouts `<class>/<clip>/<frame>` and `<video>/<part>/<frame>` cannot be told apart.
- Hidden files, `__MACOSX`, UCF-101's `ucfTrainTestlist` and the notes of our own commands are
  passed over without a word, and everything else that is no clip is counted and named once.
"""

import functools
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ardiffusion.data.notices import warn_once
from ardiffusion.data.pictures import ANIMATED, PICTURES, is_animation, is_file, is_folder
from ardiffusion.files import shown

VIDEOS = frozenset(
    ".3g2 .3gp .3gp2 .3gpp .264 .265 .amv .asf .av1 .avc .avi .dav .dif .divx .drc .dv .dvr-ms "
    ".evo .f4p .f4v .flc .fli .flv .gif .gxf .h261 .h263 .h264 .h265 .hevc .insv .ismv .ivf .lrv "
    ".m1v .m2p .m2t .m2ts .m2v .m4v .mj2 .mjpeg .mjpg .mk3d .mkv .mod .mov .mp2v .mp4 .mp4v .mpe "
    ".mpeg .mpg .mpg2 .mpv .mqv .mts .mxf .nut .obu .ogg .ogm .ogv .ogx .qt .rm .rmvb .roq .swf "
    ".tod .tp .trp .ts .vc1 .vob .vro .webm .wm .wmv .wtv .xvid .y4m".split()
)
_SUFFIXES = VIDEOS | ANIMATED
SPLITS = frozenset(
    "train training val valid validation test testing sky_train sky_test all".split()
)
_PASSED_OVER = frozenset(
    {"__macosx", "ucftraintestlist", "samples.jsonl", "reconstructions.jsonl"}
)
_LOOKED_AT = 8  # pictures of a folder and suffix, to tell whether these are animations
_NAMED = 8  # kinds of files that a warning counts


class Entry(NamedTuple):
    """A clip: its path below the root, with forward slashes, and its class."""

    path: str
    label: str | None


def without_suffix(path: str) -> str:
    """Drop a path's suffix if it is that of a clip; other dots are part of the name."""
    return path[: -len(suffix)] if (suffix := _suffix(path)) in _SUFFIXES else path


def by_stem(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """Find paths by what they are without their suffix, which must tell them apart."""
    found: dict[str, str] = {}
    for path in paths:
        other = found.setdefault(without_suffix(path), path)
        if other != path:
            raise ValueError(
                f"{root / path} and {root / other} have the same name but for their suffix: keep "
                "one."
            )
    return found


def _suffix(name: str) -> str:
    """Return what `os.path.splitext` does, in a third of its time."""
    place, base = name.rfind("."), name.rfind("/") + 1
    return name[place:].lower() if name[base : max(place, base)].strip(".") else ""


class _Tree:
    """What one walk over the root finds."""

    def __init__(self, root: Path) -> None:
        self.videos: list[str] = []  # and animations
        self.folders: list[str] = []  # of frames
        self.pictures: list[str] = []
        self.empty: list[str] = []
        self.others: Counter[str] = Counter()  # suffixes and kinds of what is passed over
        self.example = ""
        if root.is_dir():
            self.walk(root, below="", seen=frozenset())

    def walk(self, folder: Path, below: str, seen: frozenset[str]) -> bool:
        """Note the clips under a folder; say whether there are any or it is a clip itself."""
        real = os.path.realpath(folder)
        if real in seen:  # a link that points upwards
            return False
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        entries = [
            e for e in entries if e.name[0] != "." and e.name.casefold() not in _PASSED_OVER
        ]
        children = [e.name for e in entries if is_folder(e)]
        files = {e.name: _suffix(e.name) for e in entries if is_file(e)}
        videos = [name for name, suffix in files.items() if suffix in VIDEOS]
        videos += _animations(folder, files)
        pictures = [name for name, suffix in files.items() if suffix in PICTURES]
        inner = [
            self.walk(folder / name, below=f"{below}{name}/", seen=seen | {real})
            for name in children
        ]
        clips = bool(videos) or any(inner)
        frames = pictures if below and not clips else []
        self.videos += [below + name for name in videos]
        self.pictures += [below + name for name in pictures]
        self.folders += [below.removesuffix("/")] if frames else []
        self.empty += [below.removesuffix("/")] if below and not entries else []
        used = {*children, *videos, *frames}
        for entry in entries:
            if entry.name not in used:
                kind = _suffix(entry.name) if is_file(entry) else "pipe or device"
                self.others[shown(kind) or "without suffix"] += 1
                self.example = self.example or below + entry.name
        return clips or bool(frames)


def _animations(folder: Path, files: dict[str, str]) -> list[str]:
    """List the pictures that are animations, found by a look into some of each suffix."""
    found: list[str] = []
    for suffix in sorted({*files.values()} & ANIMATED):
        alike = [name for name, own in files.items() if own == suffix]
        some = alike[:: -(-len(alike) // _LOOKED_AT)]
        if any(is_animation(folder / name) for name in some):
            found += [name for name in alike if is_animation(folder / name, broken=True)]
    return found


def _class_of(path: str) -> str | None:
    """Name the folder of `<class>/<video>`, a folder named like a split left out."""
    return _class_in(path.rpartition("/")[0])


@functools.lru_cache(maxsize=1000)  # clips of a folder follow each other
def _class_in(folder: str) -> str | None:
    folders = folder.split("/") if folder else []
    if folders and folders[0].casefold() in SPLITS:
        folders = folders[1:]
    return folders[0] if len(folders) == 1 else None


def _with_classes(root: Path, tree: _Tree, paths: list[str]) -> list[Entry]:
    """Label clips, and leave out those without a class where most have one."""
    videos = set(tree.videos)
    labels = [_class_of(p) if p in videos or _suffix(p) in VIDEOS else None for p in paths]
    strays = [path for path, label in zip(paths, labels, strict=True) if label is None]
    share = f"{len(strays)} of the {len(paths)} clips under {shown(root)}"
    if len({*labels} - {None}) < 2:
        return [Entry(path, None) for path in paths]
    if 2 * len(strays) > len(paths):
        warn_once(f"{share} stand in no class folder, such as {shown(strays[0])}: no classes.")
        return [Entry(path, None) for path in paths]
    if strays:
        warn_once(
            f"{share} stand in no class folder and are left out, such as {shown(strays[0])}."
        )
    pairs = zip(paths, labels, strict=True)
    return [Entry(path, label) for path, label in pairs if label is not None]


def find_clips(root: str | Path, option: str = "--data.root") -> list[Entry]:
    """List the clips below a folder, sorted by path.

    Args:
        root: Folder of videos, of class folders of videos, or of folders of frames.
        option: What names the folder, for those who named a wrong one.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"Data folder {shown(root)} does not exist: set {option} to yours."
        )
    tree = _Tree(root)
    paths = tree.videos + tree.folders
    if not paths:
        raise ValueError(
            f"Data folder {shown(root)} holds no videos and no folders of frames: set {option} to "
            "a folder of videos, of class folders of videos, or of folders of pictures."
        )
    if tree.others:
        kinds = [f"{count} {kind}" for kind, count in tree.others.most_common(_NAMED)]
        kinds += ["..."] if len(tree.others) > _NAMED else []
        warn_once(
            f"Passed over what is no clip under {shown(root)}: {', '.join(kinds)}, such as "
            f"{shown(tree.example)}."
        )
    if tree.folders:  # where clips are folders, an empty one is a clip that went missing
        paths += tree.empty
    return _with_classes(root, tree, sorted(paths))


def find_pictures(root: str | Path) -> list[Entry]:
    """List the pictures below a folder, sorted by path; those of `<class>/<picture>` have one."""
    root = Path(root)
    tree = _Tree(root)
    if not tree.pictures:
        problem = "holds no pictures" if root.is_dir() else "does not exist"
        raise FileNotFoundError(f"Folder {shown(root)} {problem}: set --data.images to yours.")
    return [Entry(path, _class_of(path)) for path in sorted(tree.pictures)]


def class_names(entries: list[Entry]) -> list[str]:
    """List the classes, named as their folders, in the order of their labels: 0, 1, ..."""
    return sorted({entry.label for entry in entries if entry.label is not None})
