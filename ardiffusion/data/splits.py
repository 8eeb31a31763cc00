"""Split the clips of a data set into train, val and test: by lists of files or by fractions."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ardiffusion.data.layouts import VIDEOS

NAMES = ("train", "val", "test")


def _normal(name: str) -> str:
    """Spell a path as lists are compared: without suffix, in one case, with forward slashes.

    UCF-101 writes `HandstandPushups/v_HandStandPushups_*`, and copies of it change the suffix.
    """
    path = PurePosixPath(name.strip().replace("\\", "/").casefold())
    path = path.with_suffix("") if path.suffix in VIDEOS else path
    return path.as_posix().removeprefix("./").strip("/")


class _Names:
    """The ways to name a clip: its path, a folder above it, its bare name."""

    def __init__(self, clips: Sequence[str]) -> None:
        self.paths: dict[str, set[str]] = defaultdict(set)
        self.bare: dict[str, set[str]] = defaultdict(set)
        for clip in clips:
            normal = PurePosixPath(_normal(clip))
            self.bare[normal.name].add(clip)
            for name in (normal, *normal.parents):
                self.paths[str(name)].add(clip)

    def find(self, line: str) -> set[str]:
        for name in (_normal(line), _normal(re.sub(r"\s+\d+$", "", line))):
            if found := self.paths.get(name) or self.bare.get(name):
                if name not in self.paths and len(found) > 1:
                    raise ValueError(
                        f"names {line.strip()!r}, which {len(found)} clips are called"
                    )
                return found
        raise ValueError(f"names {line.strip()!r}, which is not there")


def read_list(path: str | Path, root: str | Path, clips: Sequence[str]) -> list[str]:
    """Read which clips a split has: those below a folder, or those a text file names.

    A line of the file is a path below the root, a bare file name, or a folder, whose clips are
    all meant; suffix and case do not matter, a number at the end (UCF-101's label) is passed
    over, and so are empty lines and those that start with `# `.

    Args:
        path: Text file, from the working directory or from the root, or folder below the root.
        root: Folder of the data set.
        clips: Paths of all clips below the root.
    """
    path = Path(path) if Path(path).is_file() else Path(root) / path
    if path.is_dir() and path.is_relative_to(root):
        folder = path.relative_to(root)
        if below := [clip for clip in clips if Path(clip).is_relative_to(folder)]:
            return below
        raise ValueError(f"Folder {path} holds no clip: choose another list or --data.root.")
    if not path.is_file():
        raise FileNotFoundError(f"List {path} does not exist: check its path.")
    names, chosen = _Names(clips), set()
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("# "):
            try:
                chosen |= names.find(line)
            except ValueError as error:
                raise ValueError(
                    f"List {path} {error} under {root}: correct the list or --data.root."
                ) from None
    if not chosen:
        raise ValueError(f"List {path} names no clip: write one path per line.")
    return sorted(chosen)


def _order(path: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{path}".encode()).hexdigest()


def split_fractions(
    clips: Sequence[str], fractions: dict[str, float], seed: int = 0
) -> dict[str, list[str]]:
    """Draw a fraction of the clips for each name and leave the rest to "train".

    A clip's place in the draw depends on its path and the seed alone, so that a data set that
    grows keeps most of its split. A fraction above 0 gets a clip as long as train keeps one.
    """
    if min(fractions.values(), default=0) < 0 or sum(fractions.values()) > 1:
        raise ValueError(
            f"Fractions {fractions} must not be negative or add up to more than 1: change "
            "--data.val_fraction or --data.test_fraction."
        )
    drawn = sorted(clips, key=lambda path: _order(path, seed))
    splits: dict[str, list[str]] = {}
    spare = len(clips) - (sum(fractions.values()) < 1)
    for name, fraction in fractions.items():
        wanted = max(1, round(fraction * len(clips))) if fraction > 0 else 0
        count = max(0, min(wanted, spare))
        splits[name], drawn, spare = sorted(drawn[:count]), drawn[count:], spare - count
    return {"train": sorted(drawn), **splits}


def split_clips(
    clips: Sequence[str],
    listed: dict[str, list[str]],
    fractions: dict[str, float],
    seed: int = 0,
) -> dict[str, list[str]]:
    """Split clips by the lists there are, and by fractions where there is none.

    Clips of val and test lists are left out of train; val and test may share clips. Without a
    train list, train is every clip that no list names. A split without a list takes its
    fraction out of train.

    Args:
        clips: Paths of all clips.
        listed: Clips by name of the split ("train", "val", "test"), for splits that have a list.
        fractions: Fraction of the clips by name of the split, for those that have no list.
        seed: Seed of the draw.
    """
    held_out = {clip for name in ("val", "test") for clip in listed.get(name, [])}
    both = sorted(held_out.intersection(listed.get("train", [])))
    if both:
        raise ValueError(
            f"{both[0]} stands in the train list and in the val or test list: remove it from one."
        )
    pool = listed.get("train", [clip for clip in clips if clip not in held_out])
    drawn = split_fractions(
        pool,
        fractions={name: part for name, part in fractions.items() if name not in listed},
        seed=seed,
    )
    kept = {name: clips for name, clips in listed.items() if name != "train"}
    return {name: {**drawn, **kept}.get(name, []) for name in NAMES}
