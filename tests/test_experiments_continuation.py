import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ardiffusion.data.synthetic import SKIES, skies
from ardiffusion.data.writer import write_video
from ardiffusion.files import append_json_lines
from experiments.continuation import flow, main


def continue_skies(folder: Path, frames: int) -> None:
    """Write videos of so many frames that go on as the eight they were given."""
    for label, name in enumerate(SKIES):
        video = skies(label, frames, 64, torch.Generator().manual_seed(label))
        other = skies(label, frames, 64, torch.Generator().manual_seed(label + 9))
        for place in ("given", "made", "free", f"real/{name}"):
            (folder / place).mkdir(parents=True, exist_ok=True)
        write_video(folder / "given" / f"{label}.mp4", video[:8])
        write_video(folder / "made" / f"{label}.mp4", video)
        write_video(folder / "free" / f"{label}.mp4", other)
        write_video(folder / "real" / name / "0.mp4", video)
        prefix = {"file": f"{label}.mp4", "start": 0, "frames": 8}
        line = {"file": f"{label}.mp4", "index": label, "prefix": prefix}
        append_json_lines(folder / "made" / "samples.jsonl", [line])


def test_a_true_continuation_keeps_picture_motion_and_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    continue_skies(tmp_path, frames=24)
    main([*(str(tmp_path / x) for x in ("made", "given", "free")), f"--real={tmp_path / 'real'}"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["psnr_first"] > 35 and found["class_kept"] == 1
    assert found["seam"] > 0.6 > 0.4 > found["seam_free"]
    assert found["flow"] > 0.85 > 0.8 > found["flow_free"]
    assert [row["last"] for row in found["samples"]] == list(SKIES)
    with Image.open(tmp_path / "made" / "strips.png") as strips:
        columns = 1 + 3  # the picture that was given, then each eighth of 24 frames
        assert strips.size == (2 + columns * 66, 2 + 4 * 66)


def test_flow_is_that_of_a_picture_that_moves() -> None:
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    moved = [(((x - 0.5 * f) / 5).sin() + ((y + 0.25 * f) / 7).cos()) * 40 + 90 for f in range(8)]
    found = flow(torch.stack(moved)[:, None].repeat(1, 3, 1, 1))
    expected = torch.tensor([0.5, -0.25])[:, None].expand(2, 4)
    torch.testing.assert_close(found[:, 1:3, 1:3].flatten(1), expected, rtol=0, atol=0.05)


def test_samples_that_hardly_go_on_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    continue_skies(tmp_path, frames=9)
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / folder) for folder in ("made", "given", "free")])
    assert "has 9 frames, 8 of them given: generate at least 2 more." in capsys.readouterr().err
