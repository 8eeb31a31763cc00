import hashlib
import logging
import os
from pathlib import Path

import pytest
import torch

from ardiffusion.data import index
from ardiffusion.data.index import Count, cache_file, index_clips, usable_clips
from ardiffusion.data.notices import warn_once
from ardiffusion.data.video import write_video
from tests.test_data_streams import damaged


def write(path: Path, frames: int) -> None:
    write_video(path, frames=torch.zeros(frames, 3, 16, 16, dtype=torch.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "folder").mkdir(parents=True)
    write(root / "a.mp4", frames=3)
    (root / "folder" / "0.png").touch()
    (root / "bad.mp4").write_text("not a video")
    return root


def test_counts_are_kept_and_only_changed_files_are_read_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = ["a.mp4", "bad.mp4", "folder"]
    first = index_clips(root, clips, cache=tmp_path / "cache")
    assert [first[clip].frames for clip in clips] == [3, 0, 1]
    assert "bad.mp4 is broken or not a video" in str(first["bad.mp4"].error)
    read: list[str] = []
    examine = index.examine
    monkeypatch.setattr(index, "examine", lambda p: (read.append(Path(p).name), examine(p))[1])
    assert index_clips(root, clips, cache=tmp_path / "cache") == first
    assert read == []
    write(root / "bad.mp4", frames=2)
    write(root / "new.mp4", frames=1)
    again = index_clips(root, [*clips, "new.mp4"], cache=tmp_path / "cache")
    assert [again[c] for c in ("bad.mp4", "new.mp4")] == [Count(2), Count(1)]
    assert sorted(read) == ["bad.mp4", "new.mp4"]


def test_index_lives_in_the_users_cache_and_not_in_the_data(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    before = sorted(root.rglob("*"))
    index_clips(root, ["a.mp4"])
    file = cache_file(root)
    assert file.parent == tmp_path / "xdg" / "ardiffusion"
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    assert sorted(root.rglob("*")) == before
    assert cache_file(root / "folder").name != file.name


def test_broken_index_and_unwritable_folder_do_not_stop_anyone(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = cache_file(root, tmp_path)
    file.write_text("{ half")
    assert index_clips(root, ["a.mp4"], cache=tmp_path)["a.mp4"].frames == 3
    assert index_clips(root, ["a.mp4"], cache=root / "a.mp4")["a.mp4"].frames == 3
    assert "Cannot keep the index" in caplog.text


def test_a_folder_whose_name_is_not_utf8_has_an_index(root: Path, tmp_path: Path) -> None:
    folder = root.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    assert index_clips(folder, ["a.mp4"], cache=tmp_path / "cache")["a.mp4"] == Count(3)
    assert cache_file(folder, tmp_path / "cache").is_file()


def test_the_index_of_a_folder_keeps_its_name(tmp_path: Path) -> None:
    known = hashlib.sha256(os.path.realpath(tmp_path / "é").encode()).hexdigest()[:12]
    assert cache_file(tmp_path / "é", tmp_path) == tmp_path / f"é-{known}.json"


def test_damage_is_told_by_the_run_that_finds_it_and_by_those_that_know_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged(tmp_path / "bad.avi")
    for _ in range(2):
        warn_once.cache_clear()  # as another process
        counts = index_clips(tmp_path, ["bad.avi"], cache=tmp_path / "cache")
        assert counts["bad.avi"].damage == caplog.messages[-1]
    assert len(caplog.messages) == 2 and "bad.avi is damaged" in caplog.messages[0]


def test_file_removed_after_discovery_is_broken(root: Path, tmp_path: Path) -> None:
    os.remove(root / "a.mp4")
    assert "does not exist" in str(index_clips(root, ["a.mp4"], cache=tmp_path)["a.mp4"].error)


def test_short_and_broken_clips_are_skipped_counted_and_listed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counts = {f"{i}.mp4": Count(20) for i in range(18)}
    counts |= {"short.mp4": Count(7), "bad.mp4": Count(0, "bad.mp4 is broken.")}
    with caplog.at_level(logging.WARNING):
        usable = usable_clips("data", counts, frames=16, max_broken=0.1)
    assert usable == {f"{i}.mp4": 20 for i in range(18)}
    assert "Skipped 2 of the 20 clips under data" in caplog.text
    assert "data/short.mp4 has only 7 of 16 frames." in caplog.text
    assert "bad.mp4 is broken." in caplog.text


def test_too_many_broken_clips_stop_the_run() -> None:
    counts = {f"{i}.mp4": Count(20) for i in range(18)}
    counts |= {"short.mp4": Count(7), "bad.mp4": Count(0, "bad.mp4 is broken.")}
    with pytest.raises(ValueError, match=r"2 of the 20 clips under data .* --data\.max_broken"):
        usable_clips("data", counts, frames=16, max_broken=0.05)
    with pytest.raises(ValueError, match=r"shorter than the 30 frames .*longest has 20\): lower"):
        usable_clips("data", counts, frames=30, max_broken=1.0)
