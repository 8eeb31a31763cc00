import errno
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ardiffusion.data import index
from ardiffusion.data.catalog import usable_clips
from ardiffusion.data.index import Counts, VideoIndex, index_clips, index_file, known_table
from ardiffusion.data.notices import warn_once
from ardiffusion.data.streams import find_table
from ardiffusion.data.video import Contents, examine
from ardiffusion.data.writer import write_video
from tests.test_data_streams import damaged
from tests.test_data_video import encode

CLIPS = ["a.mp4", "bad.mp4", "folder"]


def interrupt() -> Contents:
    raise KeyboardInterrupt


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


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the clips that were looked into."""
    names, examine = list[str](), index.examine
    monkeypatch.setattr(index, "examine", lambda p: (names.append(Path(p).name), examine(p))[1])
    return names


def test_counts_are_kept_and_only_changed_files_are_read_again(
    root: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_RECENT", 0)  # as if time had passed
    first = index_clips(root, CLIPS, cache=tmp_path / "cache")
    assert first.frames.tolist() == [3, 0, 1] and list(first.errors) == [1]
    assert f"{root}/bad.mp4 is broken or not a video" in first.errors[1]
    read.clear()
    again = index_clips(root, CLIPS, cache=tmp_path / "cache")
    assert (again.frames == first.frames).all() and again.errors == first.errors
    assert read == []
    write(root / "bad.mp4", frames=2)
    write(root / "new.mp4", frames=1)
    changed = index_clips(root, [*CLIPS, "new.mp4"], cache=tmp_path / "cache")
    assert changed.frames.tolist() == [3, 2, 1, 1] and changed.errors == {}
    assert sorted(read) == ["bad.mp4", "new.mp4"]


def test_what_did_not_change_is_not_even_opened(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_RECENT", 0)  # as if time had passed
    first = index_clips(root, CLIPS, cache=tmp_path)
    monkeypatch.setattr(index, "_key", lambda path: pytest.fail(f"{path} was opened"))
    again = index_clips(root, CLIPS, cache=tmp_path)
    assert (again.frames == first.frames).all() and again.errors == first.errors


def test_moved_and_copied_data_keep_their_index(
    root: Path, tmp_path: Path, read: list[str]
) -> None:
    index_clips(root, CLIPS, cache=tmp_path / "cache")
    read.clear()
    copied = shutil.copytree(root, tmp_path / "copied", copy_function=shutil.copyfile)
    moved = root.rename(tmp_path / "moved")
    for place in (copied, moved):
        found = index_clips(place, CLIPS, cache=tmp_path / "cache")
        assert found.frames.tolist() == [3, 0, 1]
        assert found.errors[1].startswith(f"{place}/bad.mp4 is broken")
    assert set(read) == {"bad.mp4"}


def test_mended_video_is_found_so_even_if_no_byte_that_is_looked_at_changed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_RECENT", 0)
    monkeypatch.setattr(index, "_key", lambda _: 1)
    assert list(index_clips(root, ["bad.mp4"], cache=tmp_path).errors) == [0]
    write(root / "bad.mp4", frames=2)
    for _ in range(2):
        found = index_clips(root, ["bad.mp4"], cache=tmp_path)
        assert found.frames.tolist() == [2] and found.errors == {}


def test_what_is_known_by_its_content_alone_is_kept_once(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_RECENT", 1e30)  # as where the clock of a server is ahead
    for _ in range(3):
        index_clips(root, ["a.mp4"], cache=tmp_path)
    assert len(VideoIndex(index_file(tmp_path)).rows) == 1


def test_error_names_the_file_that_it_is_about_in_whatever_folder_one_is(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_RECENT", 0)
    monkeypatch.chdir(root)
    assert index_clips(".", ["bad.mp4"], cache=tmp_path).errors[0].startswith("./bad.mp4 is")
    moved = root.rename(tmp_path / "moved")  # the file stays the same
    found = index_clips(moved, ["bad.mp4"], cache=tmp_path)
    assert found.errors[0].startswith(f"{moved}/bad.mp4 is")


def test_file_replaced_by_one_of_its_size_and_time_is_noticed(root: Path, tmp_path: Path) -> None:
    for frames in (3, 4):
        write(root / "a.mp4", frames=frames)
        with open(root / "a.mp4", "ab") as file:
            file.write(bytes(4000 - file.tell()))
        os.utime(root / "a.mp4", ns=(7, 7))
        assert index_clips(root, ["a.mp4"], cache=tmp_path).frames.tolist() == [frames]


def test_packet_tables_are_kept_where_seeking_needs_them(root: Path, tmp_path: Path) -> None:
    encode(root / "long.mp4", options={"g": "6"})
    index_clips(root, ["a.mp4", "long.mp4"], cache=tmp_path)
    table = known_table(root / "long.mp4", tmp_path)
    assert table is not None
    assert np.array_equal(table.entries, find_table(root / "long.mp4").entries)
    assert known_table(root / "a.mp4", tmp_path) is None
    assert known_table(root / "long.mp4", tmp_path / "none") is None


def test_run_that_ends_early_keeps_what_it_has_counted(
    root: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{i:03d}.mp4" for i in range(100)]
    for i, name in enumerate(names):  # other files, with the same video
        (root / name).write_bytes((root / "a.mp4").read_bytes() + bytes([i]))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            index, "examine", lambda p: examine(p) if p[-7:] < "090.mp4" else interrupt()
        )
        index_clips(root, names, cache=tmp_path)
    assert index_clips(root, names, cache=tmp_path).frames.tolist() == [3] * len(names)
    assert sorted(read) == names[90:]


def test_index_lives_in_the_users_cache_and_not_in_the_data(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    before = sorted(root.rglob("*"))
    index_clips(root, ["a.mp4"])
    assert index_file().parent == tmp_path / "xdg" / "ardiffusion"
    assert list(index_file().parent.iterdir()) == [index_file()]
    assert sorted(root.rglob("*")) == before


def test_broken_index_and_unwritable_folder_do_not_stop_anyone(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index_file(tmp_path).write_text("{ half")
    for cache in (tmp_path, root / "a.mp4"):
        assert index_clips(root, ["a.mp4"], cache=cache).frames.tolist() == [3]
    assert "Cannot keep the index" in caplog.text


def test_broken_index_that_cannot_be_removed_stops_nobody(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_file(tmp_path).write_text("{ half")
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: os.link("", ""))  # raises OSError
    assert index_clips(root, ["a.mp4"], cache=tmp_path).frames.tolist() == [3]


def test_names_that_are_not_utf8_are_counted(root: Path, tmp_path: Path) -> None:
    folder = root.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    for _ in range(2):
        found = index_clips(folder, CLIPS, cache=tmp_path / "cache")
        assert found.frames.tolist() == [3, 0, 1] and found.errors[1].isprintable()


def test_damage_is_told_by_the_run_that_finds_it_and_by_those_that_know_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged(tmp_path / "bad.avi")
    for _ in range(2):
        warn_once.cache_clear()  # as another process
        assert index_clips(tmp_path, ["bad.avi"], cache=tmp_path / "cache").errors == {}
    assert caplog.messages[0] == caplog.messages[1]
    assert len(caplog.messages) == 2 and f"{tmp_path}/bad.avi is damaged" in caplog.messages[0]


@pytest.mark.parametrize("opens", [True, False])
def test_a_disk_that_fails_for_a_while_is_no_fault_of_the_video(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opens: bool
) -> None:
    monkeypatch.setattr(index, "_RECENT", 0)  # as if time had passed

    def failing(path: str) -> Contents:
        raise ValueError(f"{path} is broken or not a video (invalid data): replace it.")

    def closed(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as disk:
        once = iter([failing])
        disk.setattr(index, "examine", lambda p: next(once, examine if opens else failing)(p))
        if not opens:
            disk.setattr(index, "open", closed, raising=False)
        found = index_clips(root, ["a.mp4"], cache=tmp_path / "cache")
    assert found.frames.tolist() == [3 if opens else 0] and len(found.errors) == 1 - opens
    again = index_clips(root, ["a.mp4"], cache=tmp_path / "cache")
    assert again.frames.tolist() == [3] and again.errors == {}


def test_file_removed_after_discovery_is_broken(root: Path, tmp_path: Path) -> None:
    os.remove(root / "a.mp4")
    assert "does not exist" in index_clips(root, ["a.mp4"], cache=tmp_path).errors[0]


NAMES = [*(f"{i}.mp4" for i in range(18)), "short.mp4", "bad.mp4"]
COUNTS = Counts(np.array([20] * 18 + [7, 0]), {19: "bad.mp4 is broken."})


def test_short_and_broken_clips_are_skipped_counted_and_listed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        usable = usable_clips("data", NAMES, COUNTS, frames=16, max_broken=0.1)
    assert usable.tolist() == [True] * 18 + [False] * 2
    assert "Skipped 2 of the 20 clips under data" in caplog.text
    assert "data/short.mp4 has only 7 of 16 frames." in caplog.text
    assert "bad.mp4 is broken." in caplog.text


def test_too_many_broken_clips_stop_the_run() -> None:
    with pytest.raises(ValueError, match=r"2 of the 20 clips under data .* --data\.max_broken"):
        usable_clips("data", NAMES, COUNTS, frames=16, max_broken=0.05)
    with pytest.raises(ValueError, match=r"shorter than the 30 frames .*longest has 20\): lower"):
        usable_clips("data", NAMES, COUNTS, frames=30, max_broken=1.0)
