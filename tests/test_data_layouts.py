from pathlib import Path

import pytest

from ardiffusion.data.layouts import class_names, find_clips, without_suffix


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def paths(root: Path) -> list[str]:
    return [entry.path for entry in find_clips(root)]


def labels(root: Path) -> list[str | None]:
    return [entry.label for entry in find_clips(root)]


def test_folder_of_videos_has_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, "b.MP4", "a.avi", "notes.txt", ".hidden.mp4")
    assert paths(tmp_path) == ["a.avi", "b.MP4"]
    assert labels(tmp_path) == [None, None]


def test_class_folders_of_videos_give_sorted_labels(tmp_path: Path) -> None:
    touch(tmp_path, "swim/1.avi", "Archery/2.avi", "swim/0.avi")
    touch(tmp_path, "ucfTrainTestlist/classInd.txt", "__MACOSX/swim/1.avi")
    assert paths(tmp_path) == ["Archery/2.avi", "swim/0.avi", "swim/1.avi"]
    assert labels(tmp_path) == ["Archery", "swim", "swim"]
    assert class_names(find_clips(tmp_path)) == ["Archery", "swim"]


def test_folders_named_like_splits_are_no_classes(tmp_path: Path) -> None:
    flat = touch(tmp_path / "flat", "train/a.mp4", "test/b.mp4")
    assert labels(flat) == [None, None]
    deep = touch(tmp_path / "deep", "train/x/a.mp4", "train/y/a.mp4", "test/x/b.mp4")
    assert labels(deep) == ["x", "x", "y"]
    single = touch(tmp_path / "single", "videos/a.mp4", "videos/b.mp4")
    assert labels(single) == [None, None]


def test_folders_of_frames_are_clips_at_one_and_two_levels(tmp_path: Path) -> None:
    flat = touch(tmp_path / "flat", "a/0.jpg", "a/1.jpg", "b/0.png", "preview.png")
    assert paths(flat) == ["a", "b"]
    sky = touch(tmp_path / "sky", "id1/id1_1/x_1.jpg", "id1/id1_2/x_9.jpg", "id2/id2_1/x_2.jpg")
    assert paths(sky) == ["id1/id1_1", "id1/id1_2", "id2/id2_1"]
    assert labels(sky) == [None] * 3


def test_folder_named_like_a_video_is_a_clip(tmp_path: Path) -> None:
    touch(tmp_path, "v#000001#000128.mp4/0000000.png", "w#000001#000128.mp4/0000000.png")
    assert paths(tmp_path) == ["v#000001#000128.mp4", "w#000001#000128.mp4"]


def test_empty_folder_counts_as_a_clip_among_folders_of_frames_only(tmp_path: Path) -> None:
    frames = touch(tmp_path / "frames", "a/0.jpg")
    (frames / "z6Yr7KDZhm0").mkdir()
    assert paths(frames) == ["a", "z6Yr7KDZhm0"]
    videos = touch(tmp_path / "videos", "a.mp4")
    (videos / "empty").mkdir()
    assert paths(videos) == ["a.mp4"]


def test_link_that_points_upwards_is_not_followed(tmp_path: Path) -> None:
    touch(tmp_path, "a/0.mp4", "b/1.mp4")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert paths(tmp_path) == ["a/0.mp4", "b/1.mp4"]


def test_missing_and_empty_roots_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Data folder .*nowhere does not exist: set --da"):
        find_clips(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no videos and no folders of frames"):
        find_clips(tmp_path)


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("a/b.mp4", "a/b"),
        ("a/B.MP4", "a/B"),
        ("a.mp4/b.1", "a.mp4/b.1"),
        ("v1.5", "v1.5"),
        ("x.1.avi", "x.1"),
    ],
)
def test_only_suffixes_of_videos_are_dropped(path: str, stem: str) -> None:
    assert without_suffix(path) == stem
