"""What a latent cache says of itself: `index.json`, with what is said of videos in columns.

It says what was encoded, by which AR-VAE, and whether that is finished. Videos stand in it once
and are numbers from there on, so that a million of them are read in seconds. Older caches name
them wherever something is said of one; they are read too.
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, TypedDict, TypeGuard, cast

import numpy as np

from ardiffusion.data.catalog import Catalog
from ardiffusion.data.samples import is_inside
from ardiffusion.data.splits import NAMES
from ardiffusion.files import atomic_write, has_type, read_text

INDEX = "index.json"
KEY = re.compile(r".+:[0-9]{1,18}", flags=re.DOTALL)
GONE = -2  # the label of videos that are not in the data set any more


class Origin(TypedDict):
    """Where latents come from: a cache holds latents of one origin only."""

    fingerprint: str
    resolution: int
    frames: int
    stride: int


class Index(Catalog):
    """What is known of a cache, by name."""

    origin: Origin
    complete: bool
    stamps: dict[str, str]  # of the videos when they were encoded, by path
    missing: list[str]  # keys of clips that could not be read
    shards: dict[str, list[str]]  # keys by name of the shard, once complete
    hashes: dict[str, str]  # by name of the shard, once complete


class Clips(TypedDict):
    """Numbers of the videos of clips, and where the clips start."""

    videos: list[int]
    starts: list[int]


class Columns(TypedDict):
    """The same as the file holds it; a video is known by its place in the list of paths."""

    origin: Origin
    complete: bool
    classes: list[str]
    paths: list[str]
    labels: list[int]
    lengths: list[int]  # 0 where a video cannot be used
    stamps: list[str]
    splits: dict[str, list[int]]
    missing: Clips
    shards: dict[str, Clips]
    hashes: dict[str, str]


def split_key(key: str) -> tuple[str, str]:
    """Return the video of a clip and where it starts there, nowhere if the key names no clip."""
    path, *start = key.rsplit(":", maxsplit=1)
    return path, "".join(start)


def path_of(key: str) -> str:
    """Return the video of a clip."""
    return split_key(key)[0]


def keys_of(clips: Clips, paths: Sequence[str]) -> list[str]:
    places = zip(clips["videos"], clips["starts"], strict=True)
    return [f"{paths[video]}:{start}" for video, start in places]


def are_inside(paths: Sequence[str]) -> bool:
    """Say whether all paths are below a folder; of a million that is asked at once."""
    text = "\0".join(["", *paths, ""])
    if text.count("\0") != len(paths) + 1 or "\0/" in text or "\0\0" in text:
        return False
    return ".." not in text or all(map(is_inside, paths))


def are_clips(keys: Sequence[str]) -> bool:
    """Say whether keys name clips, each once."""
    well = all(map(KEY.fullmatch, keys)) and are_inside([path_of(key) for key in keys])
    return well and len(set(keys)) == len(keys)


def is_index(found: object) -> TypeGuard[Index]:
    """Say whether parsed JSON is an index of an older version, and one that can be true."""
    if not has_type(found, Index):
        return False
    index = cast(Index, found)
    splits, shards = index["splits"], index["shards"]
    return (
        index["labels"].keys() >= {*index["lengths"], *chain(*splits.values())}
        and all(length > 0 for length in index["lengths"].values())
        and all(label >= -1 for label in index["labels"].values())
        and are_clips([*chain(*shards.values())])
        and are_clips(index["missing"])
    )


def are_columns(found: object) -> TypeGuard[Columns]:
    """Say whether parsed JSON is an index, and one that can be true."""
    if not has_type(found, Columns):
        return False
    index = cast(Columns, found)
    paths, splits, shards = index["paths"], index["splits"], index["shards"]
    count, clips = len(paths), [index["missing"], *shards.values()]
    with suppress(OverflowError):
        label = np.array(index["labels"], np.int64)
        length = np.array(index["lengths"], np.int64)
        split = np.array([*chain(*splits.values())], np.int64)
        video = np.array([*chain(*(each["videos"] for each in clips))], np.int64)
        start = np.array([*chain(*(each["starts"] for each in clips))], np.int64)
        return (
            all(index["origin"][size] > 0 for size in ("resolution", "frames", "stride"))
            and are_inside(paths)
            and len(set(paths)) == len(label) == len(length) == len(index["stamps"]) == count
            and bool(np.all((label >= GONE) & (label < len(index["classes"]))))
            and bool(np.all(length >= 0))
            and splits.keys() == set(NAMES)
            and all(len(set(numbers)) == len(numbers) for numbers in splits.values())
            and _are_numbers(split, count)
            and bool(np.all(label[split] != GONE))
            and all(is_inside(shard) and "/" not in shard for shard in shards)
            and shards.keys() == index["hashes"].keys()
            and all(len(c["videos"]) == len(c["starts"]) for c in clips)
            and _are_numbers(video, count)
            and _are_numbers(start, 10**18)
            and _differ(video, start)
        )
    return False


def _are_numbers(values: np.ndarray, end: int) -> bool:
    return bool(np.all((values >= 0) & (values < end)))


def _differ(video: np.ndarray, start: np.ndarray) -> bool:
    order = np.lexsort((start, video))
    return not np.any((np.diff(video[order]) == 0) & (np.diff(start[order]) == 0))


def pack(index: Index) -> Columns:
    """Put what is known by name into columns."""
    labels, shards = index["labels"], {"": index["missing"], **index["shards"]}
    pairs = {name: [split_key(key) for key in keys] for name, keys in shards.items()}
    named = (path for each in pairs.values() for path, _ in each)
    paths = list(dict.fromkeys([*labels, *index["stamps"], *named]))
    numbers = {path: number for number, path in enumerate(paths)}
    clips: dict[str, Clips] = {
        name: {
            "videos": [numbers[path] for path, _ in each],
            "starts": [int(start) for _, start in each],
        }
        for name, each in pairs.items()
    }
    return {
        "origin": index["origin"],
        "complete": index["complete"],
        "classes": index["classes"],
        "paths": paths,
        "labels": [labels.get(path, GONE) for path in paths],
        "lengths": [index["lengths"].get(path, 0) for path in paths],
        "stamps": [index["stamps"].get(path, "") for path in paths],
        "splits": {n: [numbers[path] for path in ps] for n, ps in index["splits"].items()},
        "missing": clips.pop(""),
        "shards": clips,
        "hashes": index["hashes"],
    }


def unpack(columns: Columns) -> Index:
    """Return what columns say by name."""
    paths = columns["paths"]
    return {
        **catalog_of(columns),
        "origin": columns["origin"],
        "complete": columns["complete"],
        "stamps": {p: stamp for p, stamp in zip(paths, columns["stamps"], strict=True) if stamp},
        "missing": keys_of(columns["missing"], paths),
        "shards": {name: keys_of(clips, paths) for name, clips in columns["shards"].items()},
        "hashes": columns["hashes"],
    }


def catalog_of(columns: Columns) -> Catalog:
    """Return what columns say of the videos, by name."""
    paths, splits = columns["paths"], columns["splits"]
    labels = zip(paths, columns["labels"], strict=True)
    lengths = zip(paths, columns["lengths"], strict=True)
    return {
        "classes": columns["classes"],
        "labels": {path: label for path, label in labels if label != GONE},
        "lengths": {path: length for path, length in lengths if length},
        "splits": {name: [paths[n] for n in numbers] for name, numbers in splits.items()},
    }


def read_columns(path: str | Path, name: str = INDEX) -> Columns:
    """Read what a cache says of itself, which is checked before anything trusts it."""
    file, found = Path(path) / name, cast(Any, None)
    with suppress(ValueError, RecursionError):
        try:
            found = json.loads(read_text(file))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path} holds no latent cache ({name} is missing): write one with "
                "`ardiff-vae predict`."
            ) from None
    if is_index(found):
        found = pack(found)
    if not are_columns(found):
        raise ValueError(
            f"{file} is broken: delete it and resume `ardiff-vae predict`; a cache of an older "
            "version is to be written anew."
        )
    return found


def read_index(path: str | Path) -> Index:
    return unpack(read_columns(path))


def write_index(path: Path, index: Index) -> None:
    write_columns(path, pack(index))


def write_columns(path: Path, columns: Columns) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(columns), encoding="utf-8")
