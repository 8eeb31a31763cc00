import json
from pathlib import Path

import pytest
from PIL import Image

from ardiffusion.diffusion.solver import DDIM
from ardiffusion.generator import Generator
from experiments.few_steps import main


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_students_are_compared_with_their_teacher(
    generator: Path, skies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Generator.from_pretrained(generator)
    made.solver, made.steps, made.difference = DDIM(eta=1.0), 4, 3
    made.save_pretrained(tmp_path / "student")
    out = tmp_path / "found"
    sizes = "--clips=3 --long=2 --frames=18".split()
    students = f'--students=["{tmp_path / "student"}"]'
    main([str(generator), str(skies), students, f"--out={out}", *sizes])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads(out.with_suffix(".json").read_text())
    rows = [(row["solver"], row["steps"], row["difference"]) for row in result["rows"]]
    teacher = [("DDIM", 50, 5), ("DPMSolver2M", 8, 1), *(("DDIM", s, 1) for s in (4, 2, 1))]
    assert rows == [*teacher, ("DDIM", 4, 3), ("DDIM", 2, 2), ("DDIM", 1, 1)]
    for row in result["rows"]:
        for length in (16, 18):
            found = row[f"frames_{length}"]
            assert found["interval"][0] <= found["frechet"] <= found["interval"][1]
        assert row["seconds"] > 0
    same, own = result["rows"][4], result["rows"][7]  # one step leaves no noise to add
    assert same["frames_18"] == own["frames_18"]
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.height == 9 * (16 + 2) + 2  # a real video, and one of each way


def test_videos_that_are_too_short_are_named(
    generator: Path, skies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(generator), str(skies), "--frames=21"])
    assert "holds 0 videos of 21 frames" in capsys.readouterr().err
