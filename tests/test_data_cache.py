from pathlib import Path

import pytest
import torch

from ardiffusion.data.cache import (
    Index,
    ShardWriter,
    begin_cache,
    finish_cache,
    read_index,
    write_index,
)


def index(arvae: str = "abc", frames: int = 4) -> Index:
    return {
        "origin": {"fingerprint": arvae, "resolution": 16, "frames": frames, "stride": 1},
        "complete": False,
        "classes": ["x"],
        "labels": {"a.mp4": 0},
        "lengths": {"a.mp4": 12},
        "splits": {"train": ["a.mp4"], "val": [], "test": []},
        "missing": [],
        "shards": {},
    }


def test_killed_run_resumes_after_its_last_shard(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    assert begin_cache(path, index()) == set()
    write_index(path, index())
    writer = ShardWriter(path, clips=2)
    writer.write(torch.rand(2, 4, 3, 2), ["a.mp4:0", "a.mp4:4"])
    writer.write(torch.rand(1, 4, 3, 2), ["a.mp4:8"])  # killed before its shard is full
    assert begin_cache(path, index()) == {"a.mp4:0", "a.mp4:4"}
    again = ShardWriter(path, clips=2)
    again.write(torch.rand(1, 4, 3, 2), ["a.mp4:8"])
    again.flush()
    again.flush()
    keys = ["a.mp4:0", "a.mp4:4", "a.mp4:8", "b.mp4:0"]
    finished = finish_cache(path, index(), expected=keys)
    assert finished == read_index(path)
    assert finished["complete"] and finished["missing"] == ["b.mp4:0"]
    assert sum(finished["shards"].values(), []) == keys[:3]  # noqa: RUF017
    assert begin_cache(path, index()) == set(keys)  # what cannot be read is not tried again


def test_processes_write_shards_of_their_own(tmp_path: Path) -> None:
    for rank in range(2):
        writer = ShardWriter(tmp_path, rank=rank)
        writer.write(torch.rand(1, 4, 3, 2), [f"{rank}.mp4:0"])
        writer.flush()
    finished = finish_cache(tmp_path, index(), expected=[])
    assert list(finished["shards"].values()) == [["0.mp4:0"], ["1.mp4:0"]]
    assert not [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")]


def test_cache_of_another_origin_is_not_resumed(tmp_path: Path) -> None:
    begin_cache(tmp_path, index())
    write_index(tmp_path, index())
    with pytest.raises(ValueError, match="was written with fingerprint abc and not xyz: choose"):
        begin_cache(tmp_path, index(arvae="xyz"))
    with pytest.raises(ValueError, match="was written with frames 4 and not 8: choose"):
        begin_cache(tmp_path, index(frames=8))
