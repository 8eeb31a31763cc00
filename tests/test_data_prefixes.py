import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from ardiffusion.data.prefixes import read_prefixes
from ardiffusion.data.writer import write_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_video(tmp_path / "b.mp4", torch.zeros(3, 3, 16, 16, dtype=torch.uint8))
    Image.new("RGB", (16, 16)).save(tmp_path / "a.PNG")
    (tmp_path / "note.txt").write_text("neither")
    return tmp_path


def files(folder: Path) -> list[str]:
    return [p.description["file"] for p in read_prefixes(str(folder), resolution=8, frames=2)]


def test_pictures_and_videos_of_a_folder_are_taken_by_name(folder: Path) -> None:
    assert files(folder) == ["a.PNG", "b.mp4"]


def test_folders_and_hidden_files_are_no_prefixes(folder: Path) -> None:
    (folder / "c.mp4").mkdir()
    (folder / "._a.png").write_bytes(b"what macOS leaves behind")
    assert files(folder) == ["a.PNG", "b.mp4"]
    for file in ("a.PNG", "b.mp4"):
        (folder / file).unlink()
    with pytest.raises(ValueError, match="holds neither pictures nor videos"):
        files(folder)


def test_pipes_and_dead_links_among_prefixes_are_refused(folder: Path) -> None:
    os.mkfifo(folder / "c.mp4")
    with pytest.raises(ValueError, match=r"c\.mp4 is a pipe, a socket or a device"):
        files(folder)
    (folder / "c.mp4").unlink()
    (folder / "c.mp4").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match=r"c\.mp4 does not exist"):
        files(folder)


def told(
    source: Path, classes: tuple[str, ...] = ("dawn", "dusk")
) -> list[tuple[str, str | None]]:
    found = read_prefixes(str(source), resolution=8, frames=2, classes=classes)
    return [(prefix.description["file"], prefix.label) for prefix in found]


def test_a_file_is_of_the_class_that_its_folder_is_named_as(folder: Path) -> None:
    for name in ("dawn", "dusk", "noon"):
        (folder / name).mkdir()
        Image.new("RGB", (16, 16)).save(folder / name / "0.png")
    of_class = [("dawn/0.png", "dawn"), ("dusk/0.png", "dusk")]
    assert told(folder) == [("a.PNG", None), *of_class, ("b.mp4", None)]
    assert told(folder, classes=()) == [("a.PNG", None), ("b.mp4", None)]
    assert told(folder / "dusk") == told(folder / "dusk" / "0.png") == [("0.png", "dusk")]
    assert told(folder / "noon") == [("0.png", None)]


def test_class_folders_take_turns(tmp_path: Path) -> None:
    for name, count in (("dawn", 3), ("day", 1), ("dusk", 2)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("RGB", (16, 16)).save(tmp_path / name / f"{i}.png")
    turns = ["dawn/0.png", "day/0.png", "dusk/0.png", "dawn/1.png", "dusk/1.png", "dawn/2.png"]
    assert [file for file, _ in told(tmp_path, classes=("dawn", "day", "dusk"))] == turns


def test_a_generated_file_is_of_the_class_that_its_log_says(folder: Path) -> None:
    lines = [{"file": "b.mp4", "label": "dusk"}, {"file": "a.PNG", "label": "noon"}]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert told(folder) == [("a.PNG", None), ("b.mp4", "dusk")]


def test_no_more_prefixes_are_read_than_are_asked_for(folder: Path) -> None:
    (folder / "b.mp4").write_bytes(b"no video")
    assert len(read_prefixes(str(folder), resolution=8, frames=2, most=1)) == 1
    with pytest.raises(ValueError, match=r"b\.mp4"):
        read_prefixes(str(folder), resolution=8, frames=2, most=2)
