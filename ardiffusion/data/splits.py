"""Split the clips of a data set into train, val and test: by lists of files or by fractions."""

import codecs
import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import compress
from pathlib import Path

import numpy as np

from ardiffusion.data.layouts import without_suffix
from ardiffusion.files import shown

NAMES = ("train", "val", "test")
_SHOWN = 200  # letters of a line that is no name


def _composed(name: str) -> str:
    """Spell a path with forward slashes and composed letters, whatever system wrote it."""
    parts = unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def _loose(name: str) -> str:
    """Spell a path in one case and without suffix as well.

    UCF-101 writes `HandstandPushups/v_HandStandPushups_*`, and copies of it change the suffix.
    """
    return without_suffix(_composed(name).casefold())


class _Names:
    """What clips are called by one spelling: by path, by a folder above, by bare name."""

    def __init__(self, clips: Sequence[str], spell: Callable[[str], str]) -> None:
        self.spell = spell
        # by spelled name: the paths or folders that have it, and the clips of each
        self.paths: dict[str, dict[str, set[str]]] = {}
        self.bare: dict[str, dict[str, set[str]]] = {}
        for clip in clips:
            folder, _, name = clip.rpartition("/")
            self.paths.setdefault(spell(clip), {})[clip] = {clip}
            self.bare.setdefault(spell(name), {})[clip] = {clip}
            while folder:
                self.paths.setdefault(spell(folder), {}).setdefault(folder, set()).add(clip)
                folder = folder.rpartition("/")[0]

    def find(self, name: str) -> list[set[str]]:
        spelled = self.spell(name)
        return list((self.paths.get(spelled) or self.bare.get(spelled, {})).values())


def _readings(line: str) -> list[str]:
    """List what a line may mean: itself, it without spaces, quotes, or a number at its end."""
    text = line.strip()
    quoted = re.fullmatch(r"""(["'])(.+)\1(?:[\s,;]+\d+)?""", text)
    readings = [line, text, quoted[2] if quoted else "", re.sub(r"[\s,;]+\d+$", "", text)]
    return list(dict.fromkeys(filter(None, readings)))


def _find(line: str, spellings: Sequence[_Names]) -> set[str]:
    for name in _readings(line):
        for names in spellings:
            if found := names.find(name):
                if len(found) > 1:
                    raise ValueError(f"names {name!r}, which {len(found)} clips are called")
                return found[0]
    raise ValueError(f"names {line.strip()[:_SHOWN]!r}, which is not there")


def _read_lines(path: Path) -> list[str]:
    """Read one name a line; only line feeds end one, as names may hold other separators."""
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16", "replace") if wide else data.decode("utf-8", "surrogateescape")
    return [line.removeprefix("\ufeff").removesuffix("\r") for line in text.split("\n")]


def read_list(path: str | Path, root: str | Path, clips: Sequence[str]) -> list[str]:
    """Read which clips a split has: those below a folder, or those a text file names.

    A line of the file is a path below the root, a bare file name, or a folder, whose clips are
    all meant. Where none has exactly this name, suffix and case do not matter; quotes and a
    number at the end (UCF-101's label) are passed over, and so are empty lines and those that
    start with `# `. The text is UTF-8, or UTF-16 with a byte order mark.

    Args:
        path: Text file, from the working directory or from the root, or folder below the root.
        root: Folder of the data set.
        clips: Paths of all clips below the root.
    """
    path = Path(path) if Path(path).is_file() else Path(root) / path
    if path.is_relative_to(root) and not path.is_file():
        folder = path.relative_to(root)
        if below := [clip for clip in clips if Path(clip).is_relative_to(folder)]:
            return below
    if path.is_dir() and path.is_relative_to(root):
        raise ValueError(
            f"Folder {shown(path)} holds no clip: choose another list or --data.root."
        )
    if not path.is_file():
        problem = "is no file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"List {shown(path)} {problem}: check its path.")
    spellings = [_Names(clips, spell) for spell in (str, _composed, _loose)]
    chosen: set[str] = set()
    for number, line in enumerate(_read_lines(path), start=1):
        if line.strip() and not line.startswith("# "):
            try:
                chosen |= _find(line, spellings)
            except ValueError as error:
                raise ValueError(
                    f"List {shown(path)} {error} under {shown(root)}: correct line {number}, in "
                    "UTF-8, or --data.root."
                ) from None
    if not chosen:
        raise ValueError(f"List {shown(path)} names no clip: write one path per line.")
    return sorted(chosen)


def draw_order(clips: Sequence[str], seed: int) -> np.ndarray:
    """Number clips in the order of the hashes of their names."""
    names = (f"{seed}/{clip}".encode(errors="surrogateescape") for clip in clips)
    hashes = b"".join(hashlib.sha256(name).digest() for name in names)
    return np.lexsort(np.frombuffer(hashes, ">u8").reshape(-1, 4).T[::-1])


def check_fractions(fractions: dict[str, float]) -> None:
    if not (all(part >= 0 for part in fractions.values()) and sum(fractions.values()) <= 1):
        raise ValueError(
            f"Fractions {fractions} must not be negative or add up to more than 1: change "
            "--data.val_fraction or --data.test_fraction."
        )


def split_fractions(
    clips: Sequence[str], fractions: dict[str, float], seed: int = 0
) -> dict[str, list[str]]:
    """Draw a fraction of the clips for each name and leave the rest to "train".

    A clip's place in the draw depends on its path and the seed alone, so that a data set that
    grows keeps most of its split. A fraction above 0 gets a clip as long as train keeps one.
    """
    check_fractions(fractions)
    drawn, left = draw_order(clips, seed), np.ones(len(clips), bool)
    splits: dict[str, list[str]] = {}
    spare = len(clips) - (sum(fractions.values()) < 1)
    for name, fraction in fractions.items():
        wanted = max(1, round(fraction * len(clips))) if fraction > 0 else 0
        count = max(0, min(wanted, spare))
        chosen: list[int] = drawn[:count].tolist()
        splits[name] = sorted([clips[number] for number in chosen])
        left[chosen] = False
        drawn, spare = drawn[count:], spare - count
    return {"train": sorted(compress(clips, left)), **splits}


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
    for name, part in fractions.items():
        check_fractions({name: part})  # also where a list makes it useless
    held_out = {clip for name in ("val", "test") for clip in listed.get(name, [])}
    both = sorted(held_out.intersection(listed.get("train", [])))
    if both:
        raise ValueError(
            f"{shown(both[0])} stands in the train list and in the val or test list: remove it "
            "from one."
        )
    pool = listed.get("train", [clip for clip in clips if clip not in held_out])
    drawn = split_fractions(
        pool,
        fractions={name: part for name, part in fractions.items() if name not in listed},
        seed=seed,
    )
    kept = {name: clips for name, clips in listed.items() if name != "train"}
    return {name: {**drawn, **kept}.get(name, []) for name in NAMES}
