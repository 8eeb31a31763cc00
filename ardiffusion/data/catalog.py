"""What is known of the videos of a data set: their classes, lengths and splits."""

import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from ardiffusion.data.index import Counts
from ardiffusion.data.layouts import Entry, class_names
from ardiffusion.data.spans import Spans
from ardiffusion.data.splits import read_list, split_clips

FRACTIONS = {"val": 0.05, "test": 0.0}
GONE = -2  # the label of videos that are not in the data set any more
_LISTED = 10  # skipped clips that the warning names
logger = logging.getLogger(__name__)


class Catalog(TypedDict):
    """The videos of a data set, each known by its place in the list of paths."""

    classes: list[str]
    paths: list[str]
    labels: list[int]  # -1 without a class
    lengths: list[int]  # in frames, 0 where a video cannot be used
    splits: dict[str, list[int]]  # by name of the split


class SplitRule(NamedTuple):
    """How videos are split: by lists, and by fractions where there is none."""

    root: str | Path  # a folder, or an address
    lists: dict[str, str]  # text file or folder of the root, by name of the split
    fractions: dict[str, float] = FRACTIONS
    seed: int = 0

    def split(self, paths: list[str]) -> dict[str, list[str]]:
        """Split videos; lists and fractions see broken ones too, which move no other then."""
        listed = {
            name: read_list(path, root=self.root, clips=paths) for name, path in self.lists.items()
        }
        return split_clips(paths, listed=listed, fractions=self.fractions, seed=self.seed)

    def check(self, catalog: Catalog, source: str) -> None:
        """Raise if the rule contradicts a split that was made already."""
        splits = {
            name: {catalog["paths"][number] for number in numbers}
            for name, numbers in catalog["splits"].items()
        }
        if self in (SplitRule(self.root, {}), SplitRule(self.root, {}, {})) or (
            self.lists and not Path(self.root).is_dir()
        ):
            return  # nothing was asked for, or lists cannot be read where there are no videos
        for name, ours in self.split(sorted({*chain(*splits.values())})).items():
            if set(ours) != splits[name]:
                raise ValueError(
                    f"The lists, fractions and seed of --data give another {name} split than that "
                    f"of {source}, which is what counts: leave them out, give those it was "
                    "encoded with, or encode again."
                )


def usable_clips(
    root: str | Path,
    clips: Sequence[str],
    counts: Counts,
    frames: int,
    max_broken: float = 0.05,
    option: str = "--data.max_broken",
) -> np.ndarray:
    """Say which clips have enough frames, list the others, and stop when these are too many."""
    usable = counts.frames >= frames
    skipped = np.flatnonzero(~usable).tolist()
    longest = int(counts.frames.max(initial=0))
    if len(skipped) == len(clips) and longest > 0:
        raise ValueError(
            f"Every clip under {root} is shorter than the {frames} frames needed (the longest has "
            f"{longest}): lower --data.frames or --data.stride."
        )
    lines = [
        counts.errors.get(n)
        or f"{Path(root) / clips[n]} has only {counts.frames[n]} of {frames} frames."
        for n in skipped[:_LISTED]
    ]
    share = f"{len(skipped)} of the {len(clips)} clips under {root}"
    if len(skipped) > max_broken * len(clips):
        raise ValueError(
            f"{share} are broken, empty or too short, for example: {lines[0]} Repair them or "
            f"raise {option}."
        )
    if skipped:
        more = ["..."] if len(skipped) > _LISTED else []
        logger.warning("Skipped %s:\n  %s", share, "\n  ".join([*lines, *more]))
    return usable


def read_catalog(
    rule: SplitRule,
    entries: list[Entry],
    counts: Counts,
    frames: int,
    max_broken: float = 0.05,
    option: str = "--data.max_broken",
) -> Catalog:
    """Say what is known of videos; those of at least so many frames can be used."""
    names, paths = class_names(entries), [entry.path for entry in entries]
    numbers = {None: -1} | {name: number for number, name in enumerate(names)}
    usable = usable_clips(rule.root, paths, counts, frames, max_broken, option=option)
    places = {path: place for place, path in enumerate(paths)}
    return {
        "classes": names,
        "paths": paths,
        "labels": [numbers[entry.label] for entry in entries],
        "lengths": np.where(usable, counts.frames, 0).tolist(),
        "splits": {name: [places[p] for p in own] for name, own in rule.split(paths).items()},
    }


def rename_classes(catalog: Catalog, names: list[str], place: str | Path) -> Catalog:
    """Label pictures by the classes of the videos they go with; without classes none has one."""
    own = catalog["classes"]
    unknown = sorted({*own}.difference(names)) if names else []
    if unknown:
        raise ValueError(
            f"Pictures under {place} have class {unknown[0]}, which no video has: name the folder "
            f"like a class of the videos, {', '.join(names)}, or move it away."
        )
    numbers = {label: names.index(name) if names else -1 for label, name in enumerate(own)}
    labels = [numbers.get(label, label) for label in catalog["labels"]]
    return {**catalog, "classes": names, "labels": labels}


def usable_videos(catalog: Catalog) -> dict[str, Spans]:
    """List the usable videos of each split, from their first frame to their last."""
    found, paths = dict[str, Spans](), catalog["paths"]
    lengths, labels = np.array(catalog["lengths"], np.int64), np.array(catalog["labels"], np.int64)
    for name, numbers in catalog["splits"].items():
        used = np.array(numbers, np.int64)
        used = used[lengths[used] > 0]
        firsts, steps = np.zeros_like(used), np.ones_like(used)
        columns = [lengths[used], labels[used], firsts, steps, used]
        found[name] = Spans([paths[n] for n in used.tolist()], np.stack(columns, axis=1))
    return found
