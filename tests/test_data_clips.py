import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ardiffusion.data.clips import VideoFiles, resize_crop
from ardiffusion.data.windows import BrokenData, EveryWindow, FrameSpan, RandomWindows
from ardiffusion.data.writer import write_video

VIDEOS = [FrameSpan("a.mp4", 10, 0), FrameSpan("b.mp4", 8, 1), FrameSpan("c.mp4", 3, 2)]


def grey(frames: int, height: int = 16, width: int = 16) -> Tensor:
    """Frame f is plain grey of level 10 f."""
    return (
        (10 * torch.arange(frames)).to(torch.uint8).expand(3, height, width, frames).moveaxis(3, 0)
    )


def read(sample: Tensor) -> list[int]:
    return (sample.double().mean((1, 2, 3)) / 10).round().int().tolist()


def every(root: Path, videos: list[FrameSpan] = VIDEOS, **options: Any) -> EveryWindow:  # noqa: ANN401
    return EveryWindow(VideoFiles(root, resolution=16), videos, **options)


def samples(dataset: EveryWindow) -> list[dict[str, Any]]:
    return [dataset[i] for i in range(len(dataset))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, frames in (("a", 10), ("b", 8), ("c", 3)):
        write_video(tmp_path / f"{name}.mp4", frames=grey(frames, height=16, width=24))
    return tmp_path


def test_every_clip_is_read_and_short_videos_stand_aside(root: Path) -> None:
    dataset = every(root, frames=4)
    read_all = samples(dataset)
    assert dataset.keys() == [s["key"] for s in read_all]
    assert dataset.keys() == ["a.mp4:0", "a.mp4:4", "a.mp4:6", "b.mp4:0", "b.mp4:4"]
    assert [read(s["video"])[0] for s in read_all] == [0, 4, 6, 0, 4]
    assert [int(s["label"]) for s in read_all] == [0, 0, 0, 1, 1]
    assert all(s["video"].shape == (4, 3, 16, 16) for s in read_all)
    assert all(s["video"].dtype == torch.uint8 for s in read_all)


def test_clips_with_a_stride_reach_the_last_frame(root: Path) -> None:
    dataset = every(root, frames=3, stride=3)
    assert [(s["key"], read(s["video"])) for s in samples(dataset)] == [
        ("a.mp4:0", [0, 3, 6]),
        ("a.mp4:3", [3, 6, 9]),
        ("b.mp4:0", [0, 3, 6]),
        ("b.mp4:1", [1, 4, 7]),
    ]


def test_random_clips_reach_every_start_and_repeat_per_epoch(root: Path) -> None:
    dataset = RandomWindows(every(root, VIDEOS[:1], frames=8), clips_per_video=2)
    assert len(dataset) == 2
    keys = [[dataset[epoch, i]["key"] for i in range(2)] for epoch in range(12)]
    assert {key for pair in keys for key in pair} == {"a.mp4:0", "a.mp4:1", "a.mp4:2"}
    assert keys == [[dataset[epoch, i]["key"] for i in range(2)] for epoch in range(12)]
    assert len({dataset[0]["key"] for _ in range(20)}) > 1
    with pytest.raises(IndexError):
        dataset[2]


def test_key_tells_the_frames_that_were_read(root: Path) -> None:
    dataset = RandomWindows(every(root, frames=3, stride=2), seed=5)
    for epoch in range(6):
        for i in range(len(dataset)):
            sample = dataset[epoch, i]
            start = int(sample["key"].split(":")[1])
            assert read(sample["video"]) == [start, start + 2, start + 4]


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (16, 16), (11, 23), (300, 17)])
def test_short_side_is_scaled_and_the_centre_kept(size: tuple[int, int]) -> None:
    height, width = size
    ramp = torch.arange(width).expand(2, 3, height, width) * 255 / width
    ramp = ramp + torch.linspace(-5, 5, height)[:, None]
    out = resize_crop(ramp.clamp(0, 255).to(torch.uint8), resolution=16)
    assert out.shape == (2, 3, 16, 16) and out.is_contiguous()
    middle = out.double()[..., 4:12].mean()
    assert abs(float(middle) - 127.5 * (width - 1) / width) < 8
    step = float((out.double()[0, 0, 8, 12] - out.double()[0, 0, 8, 4]) / 8)
    expected = 255 / width * min(height, width) / 16  # no change of aspect
    assert step == pytest.approx(expected, rel=0.15, abs=0.3)


def test_resizing_does_not_alias() -> None:
    checks = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255).to(torch.uint8)
    out = resize_crop(checks.expand(1, 3, 64, 64), resolution=16)
    assert (out.double() - 127.5).abs().max() < 12


def test_video_that_breaks_is_replaced_and_reported_once(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "a.mp4").write_text("broken since")
    dataset = every(root, frames=4, may_break=1)
    assert [s["key"] for s in samples(dataset)] == ["b.mp4:0"] * 4 + ["b.mp4:4"]
    assert caplog.text.count("a.mp4 is broken or not a video") == 1
    random = RandomWindows(every(root, frames=4, may_break=1))
    assert {random[0, i]["key"].split(":")[0] for i in range(2)} == {"b.mp4"}


@pytest.mark.parametrize("workers", [0, 1])
def test_more_broken_videos_than_allowed_end_with_one_sentence(root: Path, workers: int) -> None:
    (root / "a.mp4").unlink()
    dataset = every(root, frames=4)
    with pytest.raises(BrokenData) as error:
        list(DataLoader(dataset, batch_size=2, num_workers=workers))
    assert str(error.value).startswith(f"1 of 2 videos under {root} broke since they were counted")
    assert "a.mp4 does not exist" in str(error.value)
    assert "\n" not in str(error.value)


def test_workers_share_what_is_broken_and_datasets_survive_pickling(root: Path) -> None:
    (root / "b.mp4").write_text("broken since")
    dataset = every(root, frames=4, may_break=1)
    loader = DataLoader(dataset, num_workers=1, multiprocessing_context="fork")
    assert len(list(loader)) == len(dataset)
    assert dataset.broken.tolist() == [False, True]
    assert pickle.loads(pickle.dumps(dataset))[0]["key"] == "a.mp4:0"
