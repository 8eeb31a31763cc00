import json
from pathlib import Path

import pytest
import torch

from ardiffusion.data.synthetic import SKIES, skies
from ardiffusion.data.video import write_video
from ardiffusion.files import append_json_lines
from experiments.continuation import main


def test_a_true_continuation_keeps_picture_motion_and_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label, name in enumerate(SKIES):
        video = skies(label, 24, 64, torch.Generator().manual_seed(label))
        other = skies(label, 24, 64, torch.Generator().manual_seed(label + 9))
        for folder in ("given", "made", "free", f"real/{name}"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "given" / f"{label}.mp4", video[:8])
        write_video(tmp_path / "made" / f"{label}.mp4", video)
        write_video(tmp_path / "free" / f"{label}.mp4", other)
        write_video(tmp_path / "real" / name / "0.mp4", video)
        prefix = {"file": f"{label}.mp4", "start": 0, "frames": 8}
        line = {"file": f"{label}.mp4", "index": label, "prefix": prefix}
        append_json_lines(tmp_path / "made" / "samples.jsonl", [line])
    main([*(str(tmp_path / x) for x in ("made", "given", "free")), f"--real={tmp_path / 'real'}"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["psnr_first"] > 35 and found["class_kept"] == 1
    assert found["seam"] > 0.6 > 0.4 > found["seam_free"]
    assert [row["last"] for row in found["samples"]] == list(SKIES)
    assert (tmp_path / "made" / "strips.png").exists()
