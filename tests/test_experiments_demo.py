import json
from pathlib import Path
from typing import Any

import pytest

from ardiffusion.cli import dit, vae
from experiments import demo as module
from experiments import stages
from experiments.command import DIT, VAE
from experiments.demo import MEANING, Demo, demo, main

COMMANDS = {str(VAE): vae, str(DIT): dit}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lists the stages that are run, none of which does anything, and what is reported."""
    ran: list[str] = []

    def note(name: str, command: list[str], readers: int) -> float:
        ran.append(name)
        return 2.0

    def report(folder: Path, **given: Any) -> dict[str, float]:  # noqa: ANN401
        ran.append(f"report in {folder.name}")
        seed = int(folder.name[5:]) if folder.name.startswith("seed_") else 0
        return {name: float(10 * i + seed**2) for i, name in enumerate(MEANING)}

    monkeypatch.setattr(stages, "run", note)
    monkeypatch.setattr(module, "report", report)
    return ran


def test_every_seed_has_its_folder_and_the_scatter_is_stated(
    tmp_path: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    result = demo(str(tmp_path), seeds=3)
    wanted = {"mean": pytest.approx(5 / 3), "min": 0.0, "max": 4.0, "values": [0.0, 1.0, 4.0]}
    assert result["psnr"] == wanted and result["drift"]["values"] == [10.0, 11.0, 14.0]
    assert json.loads((tmp_path / "seeds.json").read_text()) == result | {"seeds": 3}
    assert len(ran) == 3 * 6 and [r for r in ran if "report" in r][-1] == "report in seed_2"
    row = next(line for line in capsys.readouterr().out.splitlines() if "psnr" in line)
    assert [cell.strip() for cell in row.split("│")[2:5]] == ["1.67", "0", "4"]
    seconds = json.loads((tmp_path / "seed_1" / "report.json").read_text())["seconds"]
    assert seconds["stage 1"] == 2.0 and "report" in seconds


def test_what_is_done_is_not_done_again(tmp_path: Path, ran: list[str]) -> None:
    first = demo(str(tmp_path), seeds=2)
    ran.clear()
    assert demo(str(tmp_path), seeds=2) == first and ran == []
    demo(str(tmp_path), seeds=3)
    assert len(ran) == 6 and ran[0] == "seed 2: clips"


def test_one_seed_needs_no_folder_of_its_own(tmp_path: Path, ran: list[str]) -> None:
    assert demo(str(tmp_path)) == {name: 10.0 * i for i, name in enumerate(MEANING)}
    assert {path.name for path in tmp_path.iterdir()} == {"done.json", "report.json"}
    assert ran[-1] == f"report in {tmp_path.name}"


def test_commands_of_training_are_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Demo(tmp_path, tmp_path / "my skies", 7, 24, 30, 40, samples=2, frames=16)
    for stage, steps in (("stage 1", 30), ("stage 2", 40)):
        (command,) = [s.command for s in task.stages() if s.name == stage]
        program, verb, *options = command
        with pytest.raises(SystemExit) as exit_:
            COMMANDS[program]([verb, "--print_config", *options])
        printed = capsys.readouterr().out
        wanted = f"max_steps: {steps}\n", "seed_everything: 7\n", "ckpt_path: last\n"
        assert exit_.value.code == 0 and [line in printed for line in wanted] == [True] * 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--seeds", "0"], "error: --seeds must be at least 1, got 0."),
        (["--frames", "64"], "holds a demo with frames 128, not 64; choose another --out."),
        (["--frames", "x"], "(--help lists all options)."),
    ],
)
def test_bad_input_ends_with_one_sentence(
    change: list[str],
    sentence: str,
    tmp_path: Path,
    ran: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    demo(str(tmp_path))
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(["--out", str(tmp_path), *change])
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and sentence in error and error.count("\n") == 1


@pytest.mark.slow
def test_whole_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"videos": 24, "vae_steps": 4, "dit_steps": 4, "samples": 2, "frames": 16, "seeds": 2}
    main(["--out", str(tmp_path), *(f"--{name}={value}" for name, value in sizes.items())])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    low, high = result["frechet_generated"]["min"], result["frechet_generated"]["max"]
    assert 0 < low < high and (tmp_path / "seed_1" / "contact.png").exists()
