import json
from pathlib import Path

import pytest
import torch

from ardiffusion.data.synthetic import shapes
from ardiffusion.data.video import read_frames
from ardiffusion.tools.command import main

SMALL = ["--videos", "4", "--frames", "3", "--resolution", "32"]


def run(out: Path, *extra: str) -> None:
    main(["videos", str(out), *SMALL, *extra])


def test_videos_are_dealt_to_class_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, "--kind", "shapes")
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*"))
    assert names == [
        "circle/shapes_00000.mp4",
        "circle/shapes_00003.mp4",
        "square/shapes_00001.mp4",
        "triangle/shapes_00002.mp4",
    ]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["written"] == 4


def test_video_holds_what_its_seed_draws(tmp_path: Path) -> None:
    run(tmp_path, "--kind", "shapes", "--seed", "2")
    drawn = shapes(1, 3, 32, torch.Generator().manual_seed(2_000_007))
    read = read_frames(tmp_path / "square" / "shapes_00001.mp4")
    assert (read.double() - drawn.double()).abs().mean() < 4


def test_videos_of_one_frame_are_pictures(tmp_path: Path) -> None:
    run(tmp_path, "--kind", "shapes", "--frames", "1")
    (picture,) = read_frames(tmp_path / "square" / "shapes_00001.png")
    (drawn,) = shapes(1, 1, 32, torch.Generator().manual_seed(1))
    assert torch.equal(picture, drawn)


def test_second_run_keeps_files_and_a_fresh_one_repeats_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "a")
    kept = tmp_path / "a" / "day" / "skies_00001.mp4"
    stamp = kept.stat().st_mtime_ns
    run(tmp_path / "a", "--videos", "5")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["written"] == 1
    assert kept.stat().st_mtime_ns == stamp
    run(tmp_path / "b")
    again = read_frames(tmp_path / "b" / "day" / "skies_00001.mp4")
    assert (again.int() - read_frames(kept).int()).abs().double().mean() < 2  # x264 may vary


def test_bad_number_ends_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(tmp_path, "--videos", "0")
    assert exit_.value.code == 2
    sentence = "--videos must be at least 1, got 0."
    assert capsys.readouterr().err == f"error: {sentence}\n"
