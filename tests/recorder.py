"""The pictures that a run hands to its video files, free of what the codec makes of them.

x264 picks its quantiser from the pictures: one level more in one pixel, which rounding may cost,
can change the whole file.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.testing import assert_close

from ardiffusion.data.writer import VideoWriter


def folder_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.pictures")


class Recorder(VideoWriter):
    """Writes the video, and its pictures as they are in a folder beside that of the videos."""

    def __enter__(self) -> "Recorder":
        self.pictures: list[Tensor] = []
        return self

    def write(self, frame: Tensor) -> None:
        self.pictures.append(frame.clone())
        super().write(frame)

    def close(self) -> None:
        super().close()
        folder_of(self.path.parent).mkdir(exist_ok=True)
        torch.save(torch.stack(self.pictures), folder_of(self.path.parent) / self.path.name)


def recorded(folder: Path) -> dict[str, Tensor]:
    """Return the pictures of every video in a folder."""
    names = sorted(path.name for path in folder.glob("*.mp4"))
    return {name: torch.load(folder_of(folder) / name) for name in names}


def assert_alike(one: Tensor, other: Tensor) -> None:
    """Compare up to one level, which rounding may cost."""
    assert_close(one.int(), other.int(), rtol=0, atol=1)


def assert_same_videos(one: Path, other: Path) -> None:
    """Compare all videos of two folders, picture by picture."""
    assert recorded(one).keys() == recorded(other).keys()
    for name, pictures in recorded(one).items():
        assert_alike(pictures, recorded(other)[name])
