import gc
import os
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ardiffusion.data.video import read_frames
from ardiffusion.data.writer import VideoWriter, write_video


def grey(frames: int, height: int, width: int) -> Tensor:
    """Frame f is grey of level 20 f, and its left half is red."""
    levels = (20 * torch.arange(frames)).to(torch.uint8)
    video = levels.expand(3, height, width, frames).moveaxis(3, 0).clone()
    video[..., : width // 2] = torch.tensor([220, 20, 20], dtype=torch.uint8)[:, None, None]
    return video


@pytest.mark.parametrize("size", [(64, 96), (63, 95)])
def test_written_video_keeps_frames_size_and_rate(size: tuple[int, int], tmp_path: Path) -> None:
    video = grey(9, *size)
    write_video(tmp_path / "clip.mp4", frames=video, fps=12.5)
    read = read_frames(tmp_path / "clip.mp4")
    assert read.shape == video.shape
    assert (read.double() - video.double()).abs().mean() < 4
    with av.open(tmp_path / "clip.mp4") as file:
        assert file.streams.video[0].average_rate == Fraction(25, 2)
        assert file.streams.video[0].codec_context.colorspace == 1  # BT.709, as players assume
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("size", [32, 64, 96])
def test_the_same_frames_are_the_same_file(size: int, tmp_path: Path) -> None:
    made = torch.rand(24, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(0))
    video = (255 * interpolate(made, size, mode="bilinear")).to(torch.uint8)
    files, held = [], []
    for i in range(8):
        held.append(torch.rand(1 << (12 + i)))  # memory that the encoder finds is another
        write_video(tmp_path / f"{i}.mp4", frames=video)
        files.append((tmp_path / f"{i}.mp4").read_bytes())
    assert files.count(files[0]) == len(files)


@pytest.mark.parametrize("fps", [0.1, 0.5, 7.5, 12.5, 23.976, 24, 29.97, 59.94, 119.88, 240, 1000])
@pytest.mark.parametrize("frames", [1, 5])
def test_accepted_rates_are_those_of_the_file(fps: float, frames: int, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", frames=grey(frames, 16, 16), fps=fps)
    with av.open(tmp_path / "clip.mp4") as file:
        rate = file.streams.video[0].average_rate
    assert rate is not None and float(rate) == pytest.approx(fps, rel=1e-5)


@pytest.mark.parametrize("fps", [1e9, 0.0001, float("nan"), float("inf"), -25])
def test_other_rates_are_refused(fps: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"clip\.mp4: fps={fps} must be from 0\.1 to 1000"):
        VideoWriter(tmp_path / "clip.mp4", fps=fps)


def test_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead, alive = tmp_path / ".clip.mp4.99999999.tmp", tmp_path / f".b.mp4.{os.getpid()}.tmp"
    for leftover in (dead, alive):
        leftover.touch()
    with VideoWriter(tmp_path / "deeper" / "clip.mp4") as writer:
        writer.write(grey(1, 16, 16)[0])
    write_video(tmp_path / "clip.mp4", frames=grey(1, 16, 16))
    assert sorted(p.name for p in tmp_path.iterdir()) == [alive.name, "clip.mp4", "deeper"]


def test_failed_writing_leaves_no_half_file_and_keeps_the_old_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    noise = torch.randint(256, (40, 3, 64, 64), dtype=torch.uint8)
    path = tmp_path / "clip.mp4"
    write_video(path, frames=noise[:1])
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(OSError, match=r"^Cannot write .*clip\.mp4 \(file too large\): "):
            write_video(path, frames=noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(KeyError), VideoWriter(path) as writer:
        writer.write(noise[0])
        raise KeyError
    gc.collect()
    assert capfd.readouterr().err == ""  # av has not printed the error as well
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_writer_refuses_no_frames_and_a_change_of_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clip\.mp4: it was given no frames"):
        write_video(tmp_path / "clip.mp4", frames=torch.zeros(0, 3, 8, 8, dtype=torch.uint8))
    with (
        pytest.raises(ValueError, match="a frame of 8x8 follows one of 16x16"),
        VideoWriter(tmp_path / "clip.mp4") as writer,
    ):
        writer.write(torch.zeros(3, 16, 16, dtype=torch.uint8))
        writer.write(torch.zeros(3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"fps=0 must be from 0\.1 to 1000, crf=18 from 0 to 51"):
        VideoWriter(tmp_path / "clip.mp4", fps=0)
    assert list(tmp_path.iterdir()) == []
