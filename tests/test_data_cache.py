import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from ardiffusion.data.cache import ShardWriter, begin_cache, finish_cache, open_cache
from ardiffusion.data.cache_index import (
    INDEX,
    Index,
    Origin,
    are_inside,
    describe,
    keys_of,
    read_index,
    write_index,
)
from ardiffusion.data.catalog import GONE, Catalog
from ardiffusion.data.samples import is_inside


def index(arvae: str = "abc", frames: int = 4, **stamps: str) -> Index:
    """An index of two videos, of which the second is gone."""
    catalog: Catalog = {
        "classes": ["x"],
        "paths": ["a.mp4", "b.mp4"],
        "labels": [0, GONE],
        "lengths": [12, 0],
        "splits": {"train": [0], "val": [], "test": []},
    }
    found = describe(catalog, origin(arvae, frames), stamp=str)
    return {**found, "stamps": [{"a": "1:5", "b": "1:6", **stamps}[path[0]] for path in "ab"]}


def origin(arvae: str = "abc", frames: int = 4) -> Origin:
    return {"fingerprint": arvae, "resolution": 16, "frames": frames, "stride": 1}


def keys_in(index: Index) -> list[list[str]]:
    return [keys_of(clips, index["paths"]) for clips in index["shards"].values()]


def test_killed_run_resumes_after_its_last_shard(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    assert begin_cache(path, index()) == set()
    write_index(path / INDEX, index())
    writer = ShardWriter(path, index(), clips=2)
    writer.write(torch.rand(2, 4, 3, 2), ["a.mp4:0", "a.mp4:4"])
    writer.write(torch.rand(1, 4, 3, 2), ["a.mp4:8"])  # killed before its shard is full
    assert begin_cache(path, index()) == {"a.mp4:0", "a.mp4:4"}
    again = ShardWriter(path, index(), clips=2)
    again.write(torch.rand(1, 4, 3, 2), ["a.mp4:8"])
    again.flush()
    again.flush()
    keys = ["a.mp4:0", "a.mp4:4", "a.mp4:8", "b.mp4:0"]
    finished = finish_cache(path, index(), expected=keys)
    assert finished == read_index(path)
    assert finished["complete"] and finished["missing"] == {"videos": [1], "starts": [0]}
    assert sum(keys_in(finished), []) == keys[:3]  # noqa: RUF017
    assert begin_cache(path, index()) == set(keys)  # what cannot be read is not tried again


def test_processes_write_shards_of_their_own(tmp_path: Path) -> None:
    for rank in range(2):
        writer = ShardWriter(tmp_path, index(), rank=rank)
        writer.write(torch.rand(1, 4, 3, 2), [f"{'ab'[rank]}.mp4:0"])
        writer.flush()
    finished = finish_cache(tmp_path, index(), expected=[])
    assert keys_in(finished) == [["a.mp4:0"], ["b.mp4:0"]]
    assert not [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")]


def test_cache_of_another_origin_is_not_resumed(tmp_path: Path) -> None:
    begin_cache(tmp_path, index())
    write_index(tmp_path / INDEX, index())
    with pytest.raises(ValueError, match="was written with fingerprint abc and not xyz: choose"):
        begin_cache(tmp_path, index(arvae="xyz"))
    with pytest.raises(ValueError, match="was written with frames 4 and not 8: choose"):
        begin_cache(tmp_path, index(frames=8))


def write_cache(path: Path, index_: Index, latents: float = 0.5) -> Path:
    writer = ShardWriter(path, index_, clips=2)
    for key in ("a.mp4:0", "a.mp4:4", "b.mp4:0"):
        writer.write(torch.full((1, 4, 3, 2), latents), [key])
    writer.flush()
    write_index(path / INDEX, index_)
    finish_cache(path, index_, expected=["a.mp4:0", "a.mp4:4", "b.mp4:0"])
    return path


def change(name: str, value: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda good: {**good, name: value}


OLD: dict[str, Any] = {  # what `write_cache` wrote before there were columns, but for the hashes
    "origin": origin(),
    "complete": True,
    "classes": ["x"],
    "labels": {"a.mp4": 0},
    "lengths": {"a.mp4": 12},
    "splits": {"train": ["a.mp4"], "val": [], "test": []},
    "stamps": {"a.mp4": "1:5", "b.mp4": "1:6"},
    "missing": [],
    "shards": {
        "000-000000.safetensors": ["a.mp4:0", "a.mp4:4"],
        "000-000001.safetensors": ["b.mp4:0"],
    },
    "hashes": {"000-000000.safetensors": "", "000-000001.safetensors": ""},
}
OLD_FALSE: dict[str, Callable[[dict[str, Any]], object]] = {
    "empty": lambda good: {},
    "list": lambda good: [],
    "number": lambda good: 5,
    "null": lambda good: None,
    "no hashes": lambda good: {k: v for k, v in good.items() if k != "hashes"},
    "origin": change("origin", "abc"),
    "origin lacks": change("origin", {"fingerprint": "abc"}),
    "stride": lambda good: {**good, "origin": {**good["origin"], "stride": 0}},
    "complete": change("complete", "yes"),
    "length": change("lengths", {"a.mp4": 0}),
    "classes": change("classes", [1]),
    "label": change("labels", {"a.mp4": 1}),
    "label type": change("labels", {"a.mp4": True}),
    "length of whom": change("lengths", {"z.mp4": 3}),
    "split": change("splits", {"train": ["a.mp4"]}),
    "split of whom": change("splits", {"train": ["z.mp4"], "val": [], "test": []}),
    "absolute": lambda good: {**good, "labels": {**good["labels"], "/etc/passwd": 0}},
    "above": lambda good: {**good, "labels": {**good["labels"], "b/../../c.mp4": 0}},
    "key above": change("shards", {"000-000000.safetensors": ["../a.mp4:0"]}),
    "no start": change("shards", {"000-000000.safetensors": ["a.mp4:-1"]}),
    "endless": change("shards", {"000-000000.safetensors": ["a.mp4:" + "1" * 5000]}),
    "no key": change("shards", {"000-000000.safetensors": ["a.mp4"]}),
    "twice": change("shards", {"000-000000.safetensors": ["a.mp4:0", "a.mp4:0"]}),
    "shard above": lambda good: {
        **good,
        "shards": {"../0.safetensors": ["a.mp4:0"]},
        "hashes": {"../0.safetensors": ""},
    },
    "shard elsewhere": lambda good: {
        **good,
        "shards": {"/elsewhere/0.safetensors": ["a.mp4:0"]},
        "hashes": {"/elsewhere/0.safetensors": ""},
    },
    "no hash": change("hashes", {}),
}


COLUMNS: dict[str, Callable[[dict[str, Any]], object]] = {
    "stride": lambda good: {**good, "origin": {**good["origin"], "stride": 0}},
    "no hashes": lambda good: {k: v for k, v in good.items() if k != "hashes"},
    "classes": change("classes", [1]),
    "above": change("paths", ["../a.mp4", "b.mp4"]),
    "amid": change("paths", ["a/../../a.mp4", "b.mp4"]),
    "absolute": change("paths", ["a.mp4", "/b.mp4"]),
    "no name": change("paths", ["a.mp4", ""]),
    "two names": change("paths", ["a.mp4", "b\0c.mp4"]),
    "same name": change("paths", ["a.mp4", "a.mp4"]),
    "fewer": change("paths", ["a.mp4"]),
    "label": change("labels", [1, -2]),
    "label below": change("labels", [0, -3]),
    "label type": change("labels", [True, -2]),
    "label without end": change("labels", [0, 10**30]),
    "length": change("lengths", [-1, 0]),
    "split": change("splits", {"train": [0]}),
    "split of whom": change("splits", {"train": [2], "val": [], "test": []}),
    "split of the last": change("splits", {"train": [-1], "val": [], "test": []}),
    "split of one that is gone": change("splits", {"train": [1], "val": [], "test": []}),
    "split twice": change("splits", {"train": [0, 0], "val": [], "test": []}),
    "missing of whom": change("missing", {"videos": [2], "starts": [0]}),
    "starts": lambda good: with_clips(good, videos=[0, 0], starts=[0]),
    "start": lambda good: with_clips(good, videos=[0, 0], starts=[0, -1]),
    "endless": lambda good: with_clips(good, videos=[0, 0], starts=[0, 10**18]),
    "twice": lambda good: with_clips(good, videos=[0, 0], starts=[0, 0]),
    "shard elsewhere": lambda good: {
        **good,
        "shards": {"/x": good["missing"]},
        "hashes": {"/x": ""},
    },
    "shard above": lambda good: {
        **good,
        "shards": {"../x": good["missing"]},
        "hashes": {"../x": ""},
    },
    "no hash": change("hashes", {}),
}


def with_clips(good: dict[str, Any], **clips: list[int]) -> dict[str, Any]:
    return {**good, "shards": {**good["shards"], "000-000000.safetensors": clips}}


def with_shard(good: dict[str, Any], name: str) -> dict[str, Any]:
    return {**good, "shards": {name: good["missing"]}, "hashes": {name: ""}}


@pytest.mark.parametrize("name", [*COLUMNS, *(f"old {name}" for name in OLD_FALSE)])
def test_false_index_is_refused_with_one_sentence(name: str, tmp_path: Path) -> None:
    path = write_cache(tmp_path / "cache", index())
    good = json.loads((path / INDEX).read_text())
    false = OLD_FALSE[name[4:]](OLD) if name.startswith("old ") else COLUMNS[name](good)
    (path / INDEX).write_text(json.dumps(false))
    for act in (open_cache, lambda path: begin_cache(path, index())):
        with pytest.raises(ValueError, match=r"index\.json is broken: delete it and resume"):
            act(path)


def test_index_of_an_older_version_is_read_and_columns_say_the_same(tmp_path: Path) -> None:
    path = write_cache(tmp_path / "cache", index())
    new = open_cache(path)
    assert new["paths"] == ["a.mp4", "b.mp4"] and new["labels"] == [0, GONE]
    assert new["shards"]["000-000000.safetensors"] == {"videos": [0, 0], "starts": [0, 4]}
    (path / INDEX).write_text(json.dumps({**OLD, "hashes": new["hashes"]}))
    assert open_cache(path) == new
    assert begin_cache(path, index()) == {"a.mp4:0", "a.mp4:4", "b.mp4:0"}


@given(some.lists(some.text(some.characters(codec="utf-8"), max_size=6), max_size=4))
def test_paths_are_inside_if_each_of_them_is(paths: list[str]) -> None:
    odd = [path + end for path in paths for end in ("", "/..", "..", "/../x", "\0")]
    for some_paths in (paths, odd, [path + "x" for path in paths], *([path] for path in odd)):
        assert are_inside(some_paths) == all(map(is_inside, some_paths))


@pytest.mark.parametrize("text", ["", "[" * 100_000, "\xff", '{"origin": NaN}'])
def test_index_that_is_no_json_is_refused_with_one_sentence(text: str, tmp_path: Path) -> None:
    path = write_cache(tmp_path / "cache", index())
    (path / INDEX).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"index\.json is broken: delete it and resume"):
        open_cache(path)


def test_flipped_bytes_in_a_shard_are_noticed_wherever_they_are(tmp_path: Path) -> None:
    path = write_cache(tmp_path / "cache", index())
    shard = path / "000-000001.safetensors"
    good = shard.read_bytes()
    for place in range(0, len(good), 7):
        shard.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(
            ValueError, match=r"Shard .*000-000001\.safetensors .* is missing or br"
        ):
            open_cache(path)
    shard.write_bytes(good)
    assert open_cache(path)["complete"]
    with pytest.raises(ValueError, match=r"Shard 000-000001\.safetensors .* is not the one its"):
        write_cache(tmp_path / "other", index(), latents=0.25)
        shutil.copy(tmp_path / "other" / shard.name, shard)
        open_cache(path)


def test_clips_that_are_there_twice_are_healed(tmp_path: Path) -> None:
    path = write_cache(tmp_path / "cache", index())
    shutil.copy(path / "000-000000.safetensors", path / "001-000000.safetensors")
    twice = ShardWriter(path, index(), rank=2)
    twice.write(torch.ones(2, 4, 3, 2), ["b.mp4:0", "b.mp4:4"])
    twice.flush()
    keys = {"a.mp4:0", "a.mp4:4", "b.mp4:0", "b.mp4:4"}
    assert begin_cache(path, index()) == keys
    finished = finish_cache(path, index(), expected=keys)
    assert sorted(sum(keys_in(finished), [])) == sorted(keys)  # noqa: RUF017
    assert read_index(path) == finished


def test_shards_of_another_origin_are_not_resumed_without_an_index(tmp_path: Path) -> None:
    path = write_cache(tmp_path / "cache", index())
    (path / INDEX).unlink()
    with pytest.raises(ValueError, match="was written with fingerprint abc and not xyz: choose"):
        begin_cache(path, index(arvae="xyz"))
    assert begin_cache(path, index()) == {"a.mp4:0", "a.mp4:4", "b.mp4:0"}


def test_clips_of_changed_videos_are_dropped_and_others_kept_as_they_are(tmp_path: Path) -> None:
    path = write_cache(tmp_path / "cache", index())
    before = (path / "000-000000.safetensors").stat()
    assert begin_cache(path, index(b="1:7")) == {"a.mp4:0", "a.mp4:4"}
    assert not (path / "000-000001.safetensors").exists()
    assert (path / "000-000000.safetensors").stat() == before
    elsewhere: Index = {**index(), "paths": ["c.mp4", "d.mp4"]}  # of others nothing is known
    assert begin_cache(path, elsewhere) == {"a.mp4:0", "a.mp4:4"}
