"""Each baseline trains and samples from the command line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cli_runs import COMMANDS, NOISE, Runs, spell

from ardiffusion.data.video import read_frames
from ardiffusion.generator import Generator

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore:frechet_random3d|The number of training|Attribute|You defined|The noise",
)


def fit(runs: Runs, folder: Path, name: str) -> Path:
    """Train with an overlay between the base config and what the command line says."""
    settings = runs.settings("dit", "fit")
    base = settings.pop("config")
    changed = {"trainer.limit_val_batches": 0, "trainer.logger.init_args.save_dir": folder}
    configs = [f"--config={base}", f"--config=experiments/{name}.yaml"]
    COMMANDS["dit"](["fit", *configs, *spell(settings, changed)])
    return folder / "checkpoints/last.ckpt"


def predict(checkpoint: Path, output: Path, **options: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    given = {"ckpt_path": checkpoint, "output": output, "trainer.accelerator": "cpu"}
    sizes = {"samples": 1, "frames": 4, "steps": 3}
    changed = {name.replace("__", "."): value for name, value in options.items()}
    COMMANDS["dit"](["predict", *spell(given, sizes, changed)])
    lines = [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]
    for line in lines:
        assert read_frames(output / line["file"]).shape[0] == line["frames"]
    return lines


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("ar_diffusion", {"difference": 1}),
        ("diffusion_forcing", {"difference": 1, "frames": 18}),
        ("synchronous", {"difference": 0}),
        ("nondecreasing", {"difference": 1}),
        ("independent", {"difference": 3}),
    ],
)
def test_a_baseline_trains_and_samples(
    runs: Runs,
    tmp_path: Path,
    name: str,
    plan: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    checkpoint = fit(runs, tmp_path / name, name)
    shown = capfd.readouterr()
    assert not re.search(NOISE, shown.out + shown.err + caplog.text)
    (line,) = predict(checkpoint, tmp_path / "videos", **plan)
    assert (line["difference"], line["plan"]) == (plan["difference"], None)


def test_fifo_writes_more_frames_than_the_window(
    runs: Runs, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint, output = fit(runs, tmp_path / "sync", "synchronous"), tmp_path / "fifo"
    long = {"frames": 19, "steps": 18}
    (line,) = predict(checkpoint, output, plan="FIFO", **long)
    assert (line["difference"], line["plan"]) == (None, {"class": "FIFO", "block": None})
    model = Generator.from_pretrained(checkpoint)
    dit = model.dit
    assert dit.window == 16
    sampler = model.sampler(steps=18, difference=1)
    shown = re.findall(r"(\d+)/(\d+) iterations", capfd.readouterr().out)
    assert shown[-1][0] == shown[-1][1]  # what was announced is what it took
    assert int(shown[-1][1]) > sampler.iterations(dit, frames=19)
    assert predict(checkpoint, output, plan="FIFO", **long) == [line]  # all there already
    for other in ({"plan": "FIFO", "plan__block": 4}, {}, {"difference": 1}):
        with pytest.raises(SystemExit):
            predict(checkpoint, output, **long, **other)
        assert "holds samples made with other settings" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        predict(checkpoint, tmp_path / "ad", difference=1, **long)
    assert "outrun the network's window of 16 frames" in capfd.readouterr().err


def test_folders_without_a_plan_go_on(runs: Runs, tmp_path: Path) -> None:
    output = tmp_path / "videos"
    solver: dict[str, Any] = {"solver": "DDIM", "solver__eta": 1}
    (line,) = predict(runs.dit, output, difference=2, **solver)
    later = ("plan", "sink", "context_timestep")  # as once written, it had none of them
    assert [line.pop(name, "?") for name in later] == [None] * 3
    (output / "samples.jsonl").write_text(json.dumps(line) + "\n")
    first, second = predict(runs.dit, output, difference=2, samples=2, **solver)
    assert first == line and second["plan"] is None
    again = predict(runs.dit, output, plan="AD", plan__difference=2, samples=2, **solver)
    assert again == [first, second]
