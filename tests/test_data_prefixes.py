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
