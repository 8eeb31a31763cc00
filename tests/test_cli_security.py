"""What a file says is data: nothing in a checkpoint or a list of samples is ever run."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli_runs import Runs

from ardiffusion.data.samples import read_samples

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore:frechet_random3d|The number of training|Attribute|You defined",
)


@pytest.fixture
def bait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that appears when the code of these tests is run after all."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pwned"


def poison(path: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, target)
    return target


CALL = {"class_path": "os.system", "init_args": {"command": "touch pwned"}}


def in_hyper_parameters(checkpoint: dict[str, Any]) -> None:
    checkpoint["hyper_parameters"] = {
        "_class_path": "os.system",
        "_instantiator": "os.system",
        **dict.fromkeys(("optimizer", "lr_scheduler", "arvae", "dit", "timesteps"), CALL),
    }


@pytest.mark.parametrize("verb", ["predict", "validate", "test"])
@pytest.mark.parametrize("stage", ["vae", "dit"])
def test_hyper_parameters_of_a_checkpoint_are_passed_over(
    stage: str, verb: str, runs: Runs, bait: Path, tmp_path: Path
) -> None:
    bad = poison(getattr(runs, stage), tmp_path / "bad.ckpt", in_hyper_parameters)
    options = {"data__test_fraction": 0.2, "data__latents": None} if verb == "test" else {}
    output = {"output": tmp_path / "out"} if verb == "predict" else {}
    runs.run(stage, verb, ckpt_path=bad, **options, **output)
    assert not bait.exists()


@pytest.mark.parametrize("verb", ["predict", "validate"])
@pytest.mark.parametrize("stage", ["vae", "dit"])
@pytest.mark.parametrize(
    "call", [CALL, {"class": "os.system", "arguments": {"command": "touch pwned"}}]
)
def test_parts_of_a_checkpoint_are_those_of_a_closed_table(
    call: dict[str, Any],
    stage: str,
    verb: str,
    runs: Runs,
    bait: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    name = "arvae" if stage == "vae" else "dit"
    output = {"output": tmp_path / "out"} if verb == "predict" else {}
    bad = poison(
        getattr(runs, stage),
        tmp_path / "bad.ckpt",
        lambda checkpoint: checkpoint["parts"].update({name: call}),
    )
    with pytest.raises(SystemExit, match="2"):
        runs.run(stage, verb, ckpt_path=bad, **output)
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: ")
    assert not bait.exists()


def test_a_part_within_a_part_is_of_the_table_too(
    runs: Runs, bait: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def change(checkpoint: dict[str, Any]) -> None:
        checkpoint["parts"]["timesteps"]["arguments"]["samplers"] = [CALL]

    bad = poison(runs.dit, tmp_path / "bad.ckpt", change)
    with pytest.raises(SystemExit, match="2"):
        runs.run("dit", "validate", ckpt_path=bad)
    assert "only ARVAE" in capfd.readouterr().err
    assert not bait.exists()


@pytest.mark.parametrize("option", ["optimizer", "lr_scheduler"])
@pytest.mark.parametrize("stage", ["vae", "dit"])
def test_a_factory_that_makes_something_else_is_not_called(
    stage: str, option: str, runs: Runs, bait: Path, tmp_path: Path
) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text(yaml.safe_dump({"model": {option: CALL}}))
    with pytest.raises(SystemExit, match="2"):
        runs.run(stage, "fit", f"--config={config}")
    assert not bait.exists()


@pytest.mark.parametrize("missing", ["state_dict", "parts", "stage"])
@pytest.mark.parametrize("verb", ["predict", "validate"])
def test_a_checkpoint_that_lacks_something_is_one_sentence(
    verb: str, missing: str, runs: Runs, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = poison(runs.vae, tmp_path / "bad.ckpt", lambda checkpoint: checkpoint.pop(missing))
    with pytest.raises(SystemExit, match="2"):
        runs.run("vae", verb, ckpt_path=bad)
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("stage", ["vae", "dit"])
def test_weights_alone_are_to_start_from_and_not_to_go_on_with(
    stage: str, runs: Runs, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def change(checkpoint: dict[str, Any]) -> None:
        for state in ("optimizer_states", "lr_schedulers", "callbacks"):
            del checkpoint[state]

    bad = poison(getattr(runs, stage), tmp_path / "bad.ckpt", change)
    with pytest.raises(SystemExit, match="2"):
        runs.run(stage, "fit", ckpt_path=bad, trainer__logger__init_args__save_dir=tmp_path)
    told = f"{bad} holds weights alone, .*: give --model.start {bad} inst"
    assert re.search(told, capfd.readouterr().err)


def test_integer_weights_are_one_sentence(
    runs: Runs, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def change(checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        state["dit.out.bias"] = state["dit.out.bias"].to(torch.int64)

    bad = poison(runs.dit, tmp_path / "bad.ckpt", change)
    with pytest.raises(SystemExit, match="2"):
        runs.run("dit", "predict", ckpt_path=bad, output=tmp_path / "out")
    assert "does not fit ARDiT: it holds dit.out.bias" in capfd.readouterr().err


def test_samples_that_lead_elsewhere_do_not_count(tmp_path: Path) -> None:
    files = ["a.mp4", "../b.mp4", "/c.mp4", "d/../../e.mp4", "d/f.mp4", "", "g\\u0000.mp4"]
    lines = [f'{{"file": "{file}"}}' for file in files] + ["5", "null", "{}", '{"file": 5}']
    (tmp_path / "samples.jsonl").write_text("\n".join(lines))
    assert list(read_samples(tmp_path)) == ["a.mp4", "d/f.mp4"]
