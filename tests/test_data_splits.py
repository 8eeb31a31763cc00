from pathlib import Path

import pytest

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
