import json
from pathlib import Path

import pytest
from PIL import Image

from experiments.solver_study import Measurement
from experiments.solvers import fewest_steps, main

SMALL = ["--videos", "3", "--frames", "4", "--batch_size", "2", "--compared", "2"]


def test_command_measures_both_solvers(
    generator: Path, skies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "plot"
    steps = ["--steps", "[2,6,3]", "--reference", "6", "--difference", "0.4"]
    main([str(generator), str(skies), "--out", str(out), *steps, *SMALL])
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    rows = {(row["solver"], row["steps"]): row for row in result["rows"]}
    assert list(rows) == [(s, k) for s in ("DDIM", "DPMSolver2M") for k in (6, 3, 2)]
    assert [row["difference"] for row in rows.values()] == [2, 1, 1] * 2
    assert rows["DDIM", 6]["deviation"] == 0
    assert all(row["deviation"] > 0 for key, row in rows.items() if key != ("DDIM", 6))
    # Each frame takes its steps and, but for the last one, is computed once more for the cache.
    assert [row["evaluations"] for row in rows.values()] == [6.75, 3.75, 2.75] * 2
    assert {path.name for path in out.parent.iterdir()} == {"plot.json", "plot.png"}
    assert json.loads(out.with_suffix(".json").read_text()) == result
    assert rows["DDIM", 6]["ratio"] == 1
    assert f"{rows['DPMSolver2M', 3]['frechet']:.2f}" in printed
    with Image.open(out.with_suffix(".png")) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 100


def test_fewest_steps_lie_within_a_twentieth_of_most_ddim_steps() -> None:
    measured = {"DDIM": {50: 2.0, 25: 2.09, 8: 2.2}, "DPMSolver2M": {50: 1.9, 25: 2.3, 8: 2.1}}
    rows = [
        Measurement(
            solver=name, steps=k, difference=0, evaluations=k, frechet=value, deviation=0.0
        )
        for name, values in measured.items()
        for k, value in values.items()
    ]
    assert fewest_steps(rows) == {"DDIM": 25, "DPMSolver2M": 8}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--videos", "1"], "needs two --videos or more, got 1"),
        (["--steps", "[4,0]"], "--steps must be at least 1, got 0"),
        (["--difference", "2"], "a share of the steps, from 0 to 1, got 2"),
    ],
)
def test_bad_number_ends_with_one_sentence(
    option: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["none.ckpt", "none", *option])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
