import json
from collections.abc import Sequence
from pathlib import Path

from ardiffusion.data.samples import shared_settings
from ardiffusion.tools.galleries.rows import (
    Clip,
    GalleryRow,
    pair_clips,
    read_clips,
    select_rows,
)


def clips(*names: str, labels: Sequence[str | None] = ()) -> list[Clip]:
    named = labels or [None] * len(names)
    return [Clip(n, path=Path(n), label=label) for n, label in zip(names, named, strict=True)]


def table_of(rows: list[GalleryRow], columns: Sequence[str]) -> list[list[str | None]]:
    return [[row.clips[c].name if c in row.clips else None for c in columns] for row in rows]


def test_videos_of_one_path_or_one_file_name_share_a_row() -> None:
    rows, ordered = pair_clips(
        {
            "real": clips("a/1.avi", "a/2.avi", "b/3.avi"),
            "whole": clips("b/3.mp4", "a/1.mp4", "a/2.mp4"),
            "last": clips("1.mp4", "3.gif", "9.mp4"),
        }
    )
    assert ordered == []
    assert table_of(rows, ["real", "whole", "last"]) == [
        ["a/1.avi", "a/1.mp4", "1.mp4"],
        ["a/2.avi", "a/2.mp4", None],
        ["b/3.avi", "b/3.mp4", "3.gif"],
        [None, None, "9.mp4"],
    ]


def test_videos_without_common_names_are_dealt_within_their_class() -> None:
    rows, ordered = pair_clips(
        {
            "real": clips("x/1", "x/2", "y/1", labels=["x", "x", "y"]),
            "ours": clips("000", "001", "002", labels=["y", "x", "y"]),
            "theirs": clips("001", "000", "002", labels=["x", "y", "y"]),
        }
    )
    assert ordered == ["ours"]  # theirs are named as ours
    assert table_of(rows, ["real", "ours", "theirs"]) == [
        ["x/1", "001", "001"],
        ["x/2", None, None],
        ["y/1", "000", "000"],
        [None, "002", "002"],
    ]


def test_one_name_does_not_join_two_classes() -> None:
    rows, ordered = pair_clips({"a": clips("0", labels=["x"]), "b": clips("0", labels=["y"])})
    assert ordered == ["b"] and len(rows) == 2


def test_limit_keeps_full_rows_and_takes_classes_in_turn() -> None:
    rows, _ = pair_clips(
        {
            "real": clips("1", "2", "3", "4", "5", labels=["x", "x", "x", "y", "y"]),
            "fake": clips("2", "3", "4", "5", labels=["x", "x", "y", "y"]),
        }
    )
    assert table_of(select_rows(rows, limit=2), ["real"]) == [["2"], ["4"]]
    assert table_of(select_rows(rows, limit=5), ["real"]) == [["1"], ["2"], ["3"], ["4"], ["5"]]


def test_samples_tell_index_class_and_settings_even_after_a_crash(tmp_path: Path) -> None:
    for name in ("z.mp4", "a.mp4"):
        (tmp_path / name).touch()
    lines = [
        {"file": "z.mp4", "index": 0, "label": "day"},
        {"file": "a.mp4", "index": 1, "label": 3},
    ]
    text = "\n".join(json.dumps(line | {"steps": 5}) for line in lines)
    (tmp_path / "samples.jsonl").write_text(text + '\n{"file": "b')
    found = read_clips("ours", tmp_path)
    assert [(c.name, c.key, c.label) for c in found] == [
        ("z.mp4", "000000", "day"),
        ("a.mp4", "000001", "3"),
    ]
    assert shared_settings([clip.sample for clip in found], own=("index", "file", "label")) == {
        "steps": 5
    }
