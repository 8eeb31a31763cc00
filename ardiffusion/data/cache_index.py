"""What a latent cache says of itself: `index.json`, with what is said of videos in columns.

It says what was encoded, by which AR-VAE, and whether that is finished. Videos stand in it once
and are numbers from there on, so that a million of them are read in seconds. Older caches name
them wherever something is said of one; they are read too.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, TypedDict, TypeGuard, cast

import numpy as np

from ardiffusion.data.catalog import GONE, Catalog
from ardiffusion.data.samples import is_inside
from ardiffusion.data.splits import NAMES
from ardiffusion.files import atomic_write, has_type, read_text

INDEX = "index.json"
KEY = re.compile(r".+:[0-9]{1,18}", flags=re.DOTALL)


class Origin(TypedDict):
    """Where latents come from: a cache holds latents of one origin only."""

    fingerprint: str
    resolution: int
    frames: int
    stride: int


class Clips(TypedDict):
    """Numbers of the videos of clips, and where the clips start."""

    videos: list[int]
    starts: list[int]


class Index(Catalog):
    """What is known of a cache."""

    origin: Origin
    complete: bool
    stamps: list[str]  # of the videos when they were encoded, empty where they were not
    missing: Clips  # that could not be read
    shards: dict[str, Clips]  # by name of the shard, once complete
    hashes: dict[str, str]


def path_of(key: str) -> str:
    """Return the video of a clip."""
    return key.rpartition(":")[0]


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
    """Say whether parsed JSON is an index, and one that can be true."""
    if not has_type(found, Index):
        return False
    index = cast(Index, found)
    paths, labels, lengths = index["paths"], index["labels"], index["lengths"]
    splits, shards = index["splits"], index["shards"]
    clips = [index["missing"], *shards.values()]
    videos = [*chain(*(each["videos"] for each in clips))]
    starts = [*chain(*(each["starts"] for each in clips))]
    return (
        all(index["origin"][size] > 0 for size in ("resolution", "frames", "stride"))
        and are_inside(paths)
        and len({*paths}) == len(labels) == len(lengths) == len(index["stamps"]) == len(paths)
        and _lie_within(labels, GONE, len(index["classes"]))
        and _lie_within(lengths, 0, 2**63)
        and splits.keys() == set(NAMES)
        and all(len(set(numbers)) == len(numbers) for numbers in splits.values())
        and _lie_within([*chain(*splits.values())], 0, len(paths))
        and all(labels[number] != GONE for number in chain(*splits.values()))
        and all(is_inside(shard) and "/" not in shard for shard in shards)
        and shards.keys() == index["hashes"].keys()
        and all(len(c["videos"]) == len(c["starts"]) for c in clips)
        and _lie_within(videos, 0, len(paths))
        and _lie_within(starts, 0, 10**18)
        and _differ(np.array(videos, np.int64), np.array(starts, np.int64))
    )


def _lie_within(values: Sequence[int], low: int, end: int) -> bool:
    return not values or (low <= min(values) and max(values) < end)


def _differ(video: np.ndarray, start: np.ndarray) -> bool:
    order = np.lexsort((start, video))
    return not np.any((np.diff(video[order]) == 0) & (np.diff(start[order]) == 0))


def describe(
    catalog: Catalog, origin: Origin, stamp: Callable[[str], str], complete: bool = False
) -> Index:
    """Say of a cache what is known before it holds anything."""
    usable = zip(catalog["paths"], catalog["lengths"], strict=True)
    return {
        **catalog,
        "origin": origin,
        "complete": complete,
        "stamps": [stamp(path) if length else "" for path, length in usable],
        "missing": {"videos": [], "starts": []},
        "shards": {},
        "hashes": {},
    }


def stamps_of(index: Index) -> dict[str, str]:
    """Return the stamps of the videos that have one, by path."""
    stamps = zip(index["paths"], index["stamps"], strict=True)
    return {path: stamp for path, stamp in stamps if stamp}


def place_clips(
    index: Index, missing: Sequence[str], shards: Mapping[str, Sequence[str]]
) -> Index:
    """Note keys of clips; videos that the index does not name are gone by now."""
    listed = {"": missing, **shards}
    paths = list(dict.fromkeys([*index["paths"], *map(path_of, chain(*listed.values()))]))
    numbers = {path: number for number, path in enumerate(paths)}
    clips: dict[str, Clips] = {
        name: {
            "videos": [numbers[path_of(key)] for key in keys],
            "starts": [int(key.rpartition(":")[2]) for key in keys],
        }
        for name, keys in listed.items()
    }
    more = len(paths) - len(index["paths"])
    return {
        **index,
        "paths": paths,
        "labels": index["labels"] + [GONE] * more,
        "lengths": index["lengths"] + [0] * more,
        "stamps": index["stamps"] + [""] * more,
        "missing": clips.pop(""),
        "shards": clips,
    }


def _without_names(named: dict[str, Any]) -> Any:  # noqa: ANN401
    """Put what an older cache says by name into columns, which may not be those of an index."""
    labels, lengths = named["labels"], named["lengths"]
    if not labels.keys() >= lengths.keys() or 0 in lengths.values():
        raise ValueError("the lengths are not those of the videos")
    paths = list(dict.fromkeys([*labels, *named["stamps"]]))
    numbers = {path: number for number, path in enumerate(paths)}
    columns: Any = {
        **named,
        "paths": paths,
        "labels": [labels.get(path, GONE) for path in paths],
        "lengths": [lengths.get(path, 0) for path in paths],
        "stamps": [named["stamps"].get(path, "") for path in paths],
        "splits": {name: [numbers[p] for p in own] for name, own in named["splits"].items()},
    }
    return place_clips(columns, named["missing"], named["shards"])


def read_index(path: str | Path, name: str = INDEX) -> Index:
    """Read what a cache says of itself, which is checked before anything trusts it."""
    file, found = Path(path) / name, cast(Any, None)
    with suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
        try:
            found = json.loads(read_text(file))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path} holds no latent cache ({name} is missing): write one with "
                "`ardiff-vae predict`."
            ) from None
        found = found if "paths" in found else _without_names(found)
    if not is_index(found):
        raise ValueError(
            f"{file} is broken: delete it and resume `ardiff-vae predict`; a cache of an older "
            "version is to be written anew."
        )
    return found


def write_index(path: Path, index: Index) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(index), encoding="utf-8")
