import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from ardiffusion.data.splits import read_list, split_clips, split_fractions

CLIPS = [f"class{i // 20}/v_{i:03d}.avi" for i in range(60)]


def test_fractions_are_disjoint_and_cover_everything() -> None:
    splits = split_fractions(CLIPS, fractions={"val": 0.1, "test": 0.2})
    assert [len(splits[name]) for name in ("train", "val", "test")] == [42, 6, 12]
    assert sorted(splits["train"] + splits["val"] + splits["test"]) == CLIPS


def test_split_depends_on_names_and_seed_and_not_on_order() -> None:
    first = split_fractions(CLIPS, fractions={"val": 0.2})
    assert split_fractions(CLIPS[::-1], fractions={"val": 0.2}) == first
    assert split_fractions(CLIPS, fractions={"val": 0.2}, seed=1) != first


def test_growing_data_keeps_most_of_the_split() -> None:
    before = split_fractions(CLIPS, fractions={"val": 0.2})["val"]
    after = split_fractions([*CLIPS, "new/a.avi", "new/b.avi"], fractions={"val": 0.2})["val"]
    assert len(set(before) - set(after)) <= 2


@pytest.mark.parametrize(("count", "expected"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1))])
def test_small_sets_give_each_split_a_clip_as_long_as_train_keeps_one(
    count: int, expected: tuple[int, ...]
) -> None:
    splits = split_fractions(CLIPS[:count], fractions={"val": 0.01, "test": 0.01})
    assert tuple(len(splits[name]) for name in ("train", "val", "test")) == expected


def test_zero_fractions_train_on_everything_and_a_whole_one_on_nothing() -> None:
    assert split_fractions(CLIPS, fractions={"val": 0.0})["train"] == CLIPS
    assert split_fractions(CLIPS, fractions={"test": 1.0})["train"] == []
    with pytest.raises(ValueError, match="add up to more than 1"):
        split_fractions(CLIPS, fractions={"val": 0.6, "test": 0.6})
    for wrong in (2, -0.1, float("nan")):  # even where a list makes them useless
        with pytest.raises(ValueError, match=rf"Fractions {{'val': {wrong}}} must not be"):
            split_clips(CLIPS, listed={"val": CLIPS[:3]}, fractions={"val": wrong})


def test_list_names_clips_by_path_name_stem_case_label_and_folder(tmp_path: Path) -> None:
    lines = ["class0/v_001.avi 1", "V_002.mp4", "v_023", "CLASS1\\v_024.avi", "", "# a remark"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    found = read_list(tmp_path / "list.txt", root="data", clips=CLIPS)
    assert found == [CLIPS[i] for i in (1, 2, 23, 24)]
    (tmp_path / "list.txt").write_text("class1/")
    assert read_list(tmp_path / "list.txt", root="data", clips=CLIPS) == CLIPS[20:40]


def test_list_is_found_in_the_root_and_may_be_a_folder_of_it(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "test.txt").write_text("v_005")
    assert read_list("lists/test.txt", root=tmp_path, clips=CLIPS) == [CLIPS[5]]
    (tmp_path / "class2").mkdir()
    assert read_list("class2", root=tmp_path, clips=CLIPS) == CLIPS[40:]
    with pytest.raises(ValueError, match="lists holds no clip"):
        read_list("lists", root=tmp_path, clips=CLIPS)


NAMES = ["a.mp4", "A.mp4", "b.mp4", "x.avi", "x.mp4", "y 2.mp4", "y.mp4", "é.mp4", "e\u0301/1.avi"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"\xef\xbb\xbfb.mp4\n\xef\xbb\xbfx.avi\n", ["b.mp4", "x.avi"]),  # two lists joined
        ("b.mp4\r\né.mp4\r\n".encode("utf-16"), ["b.mp4", "é.mp4"]),
        ("\ufeffé.mp4\n".encode("utf-16-be"), ["é.mp4"]),
        ("e\u0301.mp4\né/1.avi".encode(), ["é.mp4", "e\u0301/1.avi"]),
        (b"b.mp4,1\nx.avi;2\na.mp4\t3\n", ["a.mp4", "b.mp4", "x.avi"]),
        (b"\"x.mp4\"\n'b.mp4' 7\n", ["b.mp4", "x.mp4"]),
        (b"./b.mp4\n", ["b.mp4"]),
        (b"x.mp4\n", ["x.mp4"]),
        (b"a.mp4\n", ["a.mp4"]),
        (b"B.AVI\n", ["b.mp4"]),
        (b"y 2\n", ["y 2.mp4"]),
        (b"y 3\n", ["y.mp4"]),
    ],
)
def test_exact_names_win_and_text_is_read_as_it_was_written(
    text: bytes, expected: list[str], tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_bytes(text)
    names = [name for name in NAMES if not text.startswith(b"y 3") or name != "y 2.mp4"]
    found = read_list(tmp_path / "list.txt", root="data", clips=names)
    assert found == sorted(expected)


def test_names_end_at_line_feeds_alone(tmp_path: Path) -> None:
    clips = [f"a{mark}b.mp4" for mark in "\u2028\u2029\x85\x0b\x0c\x1c"]
    clips += [os.fsdecode(b"caf\xe9.mp4"), " b .mp4"]
    (tmp_path / "list.txt").write_text("\n".join(clips), "utf-8", errors="surrogateescape")
    assert read_list(tmp_path / "list.txt", root="data", clips=clips) == sorted(clips)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            b"a.mp4\nb.mp4\n\xe9.mp4\n",
            r"names '\\udce9\.mp4', which is not there .* line 3, in UTF-8",
        ),
        ("b.mp4".encode("utf-16-le"), r"names 'b\\x00.*, which is not there .* line 1, in UTF-8"),
        (b"\n\nx\n", r"names 'x', which 2 clips are called under data: correct line 3"),
        (b"A.MP4\n", r"names 'A\.MP4', which 2 clips are called"),
        ("b\u2028x.mp4".encode(), r"names 'b\\u2028x\.mp4', which is not there"),
        (b"../b.mp4\n", r"names '\.\./b\.mp4', which is not there"),
    ],
)
def test_line_that_names_no_clip_is_named(text: bytes, named: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(text)
    with pytest.raises(ValueError, match=rf"list\.txt {named}") as error:
        read_list(tmp_path / "list.txt", root="data", clips=NAMES)
    assert str(error.value).isprintable()


def test_list_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(FileNotFoundError, match=r"list\.txt is no file: check its path"):
        read_list("list.txt", root=tmp_path, clips=CLIPS)


def test_names_that_are_not_utf8_are_split() -> None:
    clips = [os.fsdecode(b"caf\xe9%d.mp4" % i) for i in range(10)]
    splits = split_fractions(clips, fractions={"val": 0.2})
    assert sorted(splits["train"] + splits["val"]) == clips


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("v_001\nv_999.avi", r"list\.txt names 'v_999\.avi', which is not there under data"),
        ("same.mp4", r"list\.txt names 'same\.mp4', which 2 clips are called under data"),
        ("\n", r"list\.txt names no clip"),
    ],
)
def test_bad_list_is_named(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        read_list(tmp_path / "list.txt", root="data", clips=[*CLIPS, "a/same.mp4", "b/same.mp4"])
    with pytest.raises(FileNotFoundError, match=r"List .*none\.txt does not exist"):
        read_list(tmp_path / "none.txt", root="data", clips=CLIPS)


def test_lists_win_over_fractions() -> None:
    half = {"val": 0.5, "test": 0.5}
    splits = split_clips(CLIPS, listed={"test": CLIPS[:6]}, fractions={**half, "val": 0.1})
    assert splits["test"] == CLIPS[:6]
    assert len(splits["val"]) == 5
    assert sorted(splits["train"] + splits["val"]) == CLIPS[6:]


def test_val_comes_out_of_the_train_list_and_unlisted_clips_are_left_out() -> None:
    splits = split_clips(CLIPS, listed={"train": CLIPS[:20]}, fractions={"val": 0.1})
    assert sorted(splits["train"] + splits["val"]) == CLIPS[:20]
    assert (len(splits["val"]), splits["test"]) == (2, [])


def test_clip_in_train_and_test_lists_is_refused() -> None:
    both = {"train": CLIPS[:3], "test": CLIPS[2:5]}
    with pytest.raises(ValueError, match=r"v_002\.avi stands in the train list and in the val or"):
        split_clips(CLIPS, listed=both, fractions={})
    same = {"val": CLIPS[:3], "test": CLIPS[:3]}
    assert split_clips(CLIPS, listed=same, fractions={})["train"] == CLIPS[3:]


@given(some.lists(some.text(max_size=4), unique=True, max_size=40), some.integers(0, 9))
def test_clips_are_drawn_in_the_order_of_hashes_of_their_names(
    clips: list[str], seed: int
) -> None:
    def place(clip: str) -> str:
        return hashlib.sha256(f"{seed}/{clip}".encode(errors="surrogateescape")).hexdigest()

    clips = [clip for clip in clips if clip.isprintable()]
    expected = sorted(clips, key=place)[: max(1, round(0.3 * len(clips)))]
    splits = split_fractions(clips, {"val": 0.3}, seed=seed)
    if len(clips) > 1:
        assert splits == {
            "train": sorted({*clips} - {*expected}),
            "val": sorted(expected),
        }
