import os
import socket
from pathlib import Path

import pytest
from PIL import Image

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
        ("a/b.m2ts", "a/b"),
        ("a/b.webp", "a/b"),
    ],
)
def test_only_suffixes_of_clips_are_dropped(path: str, stem: str) -> None:
    assert without_suffix(path) == stem


@pytest.mark.parametrize("stray", ["preview.mp4", "b/sub/2.mp4", "thumbs/x.png"])
def test_stray_clip_is_left_out_of_the_classes_and_named_once(
    stray: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "a/1.mp4", "b/1.mp4", stray)
    for _ in range(2):
        assert paths(tmp_path) == ["a/1.mp4", "b/1.mp4"]
        assert labels(tmp_path) == ["a", "b"]
    assert len(caplog.messages) == 1
    assert "1 of the 3 clips under" in caplog.messages[0]
    assert f"left out, such as {stray.removesuffix('/x.png')}." in caplog.messages[0]


def test_few_videos_in_folders_make_no_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4", "extra/1.mp4", "more/1.mp4")
    assert labels(tmp_path) == [None] * 5
    assert "3 of the 5 clips" in caplog.text and "such as 1.mp4: no classes." in caplog.text


def animate(path: Path, frames: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [Image.new("RGB", (8, 8), (i * 80, 0, 0)) for i in range(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])


def test_broken_animations_among_whole_ones_are_clips_that_somebody_will_name(
    tmp_path: Path,
) -> None:
    for name in ("0.webp", "1.webp"):
        animate(tmp_path / name)
    whole = (tmp_path / "0.webp").read_bytes()
    (tmp_path / "0.webp").write_bytes(whole[: len(whole) // 2])
    assert [entry.path for entry in find_clips(tmp_path)] == ["0.webp", "1.webp"]


def test_notes_of_our_own_commands_are_passed_over_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("000000.mp4", "samples.jsonl", "reconstructions.jsonl"):
        (tmp_path / name).touch()
    assert [entry.path for entry in find_clips(tmp_path)] == ["000000.mp4"]
    assert caplog.messages == []


def test_animations_are_clips_with_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in ("x/0.webp", "x/1.WEBP", "y/0.png", "y/1.tif"):
        animate(tmp_path / path)
    Image.new("RGB", (8, 8)).save(tmp_path / "y" / "poster.jpg")
    assert paths(tmp_path) == ["x/0.webp", "x/1.WEBP", "y/0.png", "y/1.tif"]
    assert labels(tmp_path) == ["x", "x", "y", "y"]
    assert "1 .jpg, such as y/poster.jpg" in caplog.text
    for number in range(20):
        Image.new("RGB", (8, 8)).save(tmp_path / "x" / f"still{number}.png")
    assert len(paths(tmp_path)) == 4


KNOWN = (
    "MTS m2ts mts vob mxf m2v h264 mjpeg y4m asf f4v 3g2 mpe mpv ogg divx rmvb hevc ivf".split()
)


def test_known_suffixes_are_found_and_others_are_counted_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "ok.mp4", *(f"v.{suffix}" for suffix in KNOWN))
    assert len(paths(tmp_path)) == 1 + len(KNOWN)
    assert not caplog.messages
    touch(tmp_path, "a.txt", "b.txt", "c.braw", "picture.png", "README", ".hidden", "empty/.keep")
    for _ in range(2):
        assert len(paths(tmp_path)) == 1 + len(KNOWN)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith(
        ": 2 .txt, 1 without suffix, 1 .braw, 1 .png, such as README."
    )


def test_what_is_no_file_is_passed_over_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "ok.mp4", "clip/1.png")
    os.mkfifo(tmp_path / "a.mp4")
    os.mkfifo(tmp_path / "clip" / "2.png")
    (tmp_path / "b.mp4").symlink_to("a.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    (tmp_path / "dead.mp4").symlink_to("nowhere")  # a clip that went missing
    (tmp_path / "self.mp4").symlink_to("self.mp4")
    with socket.socket(socket.AF_UNIX) as open_socket:
        monkeypatch.chdir(tmp_path)  # names of sockets must be short
        open_socket.bind("s.mp4")
    assert paths(tmp_path) == ["clip", "dead.mp4", "ok.mp4", "self.mp4"]
    assert "5 pipe or device, such as clip/2.png." in caplog.text


def test_names_that_are_not_utf8_are_found_and_printed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [os.fsdecode(name) for name in (b"caf\xe9/a.mp4", b"b\n/a.mp4", b"x.caf\xe9")]
    touch(tmp_path, *names)
    assert class_names(find_clips(tmp_path)) == ["b\n", "caf\udce9"]
    assert caplog.messages[0].endswith("1 '.caf\\udce9', such as 'x.caf\\udce9'.")


def test_classes_have_the_names_of_their_folders(tmp_path: Path) -> None:
    names = ["1", "10", "2", "1e3", "null", "yes", "[x]", " "]
    touch(tmp_path, *(f"{name}/a.mp4" for name in names))
    assert class_names(find_clips(tmp_path)) == sorted(names)
