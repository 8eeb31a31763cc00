import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli_runs import COMMANDS, NOISE, Runs
from stages import weights
from torch.testing import assert_close

from ardiffusion.data.video import read_frames
from ardiffusion.generator import Generator
from ardiffusion.training import checks
from ardiffusion.training.arvae import ARVAEModule
from ardiffusion.training.configs import find_configs
from ardiffusion.training.diffusion import DiffusionModule

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore:frechet_random3d|The number of training|The dirpath has changed|Attribute|You defined",
)
CONFIGS = Path(__file__).parents[1] / "configs"


def test_both_stages_leave_what_they_made(runs: Runs) -> None:
    for stage in ("vae", "dit"):
        config = yaml.safe_load((runs.folder / stage / "config.yaml").read_text())
        assert config["trainer"]["max_steps"] == 3
        assert [path.name for path in (runs.folder / stage).glob("events.out*")]
    assert json.loads((runs.latents / "index.json").read_text())["complete"]
    lines = (runs.samples / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["dawn", "day"]
    for line in lines:
        assert read_frames(runs.samples / json.loads(line)["file"]).shape == (4, 3, 16, 16)


@pytest.mark.parametrize("stage", ["vae", "dit"])
def test_measures_are_shown(
    runs: Runs, stage: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    runs.run(stage, "validate")
    names = {"vae": ("val/l1", "psnr", "frechet_random3d_rec"), "dit": ("val/loss",)}[stage]
    shown = capfd.readouterr()
    assert all(name in shown.out for name in names)
    assert not re.search(NOISE, shown.out + shown.err + caplog.text)
    runs.run(stage, "test", data__test_fraction=0.2, data__latents=None)
    assert names[0].replace("val", "test") in capfd.readouterr().out


def test_checkpoint_brings_the_sizes_of_its_networks(runs: Runs) -> None:
    sizes = {f"model__arvae__init_args__{name}": 32 for name in ("width", "resolution")}
    runs.run("vae", "validate", **sizes)


def test_resumed_fit_goes_on_without_the_arvae_file(
    runs: Runs, skies: Path, tmp_path: Path
) -> None:
    more = Runs(tmp_path, root=skies)
    more.latents = runs.latents
    more.run("dit", "fit", trainer__max_steps=5, ckpt_path=runs.dit, model__arvae="gone.ckpt")
    checkpoint = torch.load(tmp_path / "dit/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 5


def test_a_cpu_without_bfloat16_trains_in_float32(
    runs: Runs, skies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "has_bfloat16", lambda: False)
    more = Runs(tmp_path, root=skies)
    more.latents = runs.latents
    more.run("dit", "fit", model__arvae=runs.vae, trainer__precision="bf16-mixed")
    config = yaml.safe_load((tmp_path / "dit/config.yaml").read_text())
    assert config["trainer"]["precision"] == "32-true"


def test_checkpoint_of_stage_1b_needs_no_stage_1a(runs: Runs, skies: Path, tmp_path: Path) -> None:
    temporal = {"model__arvae__init_args__temporal": True, "model__temporal_only": True}
    start = tmp_path / "1a.ckpt"
    start.write_bytes(runs.vae.read_bytes())
    more = Runs(tmp_path, root=skies)
    more.run("vae", "fit", model__start=start, data__frames=4, **temporal)
    start.unlink()
    more.run("vae", "predict")
    more.run("vae", "fit", model__start=start, ckpt_path=more.vae, **temporal)


def test_modules_load_from_checkpoints_of_the_command_line(runs: Runs) -> None:
    arvae = ARVAEModule.load_from_checkpoint(runs.vae).arvae
    dit = DiffusionModule.load_from_checkpoint(runs.dit)
    loaded = Generator.from_pretrained(runs.dit)
    assert_close(weights(dit), weights(loaded), rtol=0, atol=0)
    assert_close(weights(arvae), weights(dit.arvae), rtol=0, atol=0)
    sampler = loaded.sampler(steps=2, difference=1)
    videos = (
        g.eval().generate([4], frames=3, labels=["dusk"], sampler=sampler)
        for g in (dit.generator, loaded)
    )
    assert_close(*videos, rtol=0, atol=0)


def test_generating_needs_neither_data_nor_the_arvae_file(
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "moved.ckpt").write_bytes(runs.dit.read_bytes())
    monkeypatch.chdir(tmp_path)
    hidden = runs.vae.rename(runs.vae.with_suffix(".away"))
    runs.run("dit", "predict", ckpt_path="moved.ckpt", output="videos", labels="[night,dusk]")
    hidden.rename(runs.vae)
    lines = (tmp_path / "videos" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["night", "dusk"]
    shown = capfd.readouterr()
    assert not re.search(NOISE, shown.out + shown.err + caplog.text)
    assert caplog.messages[-1].endswith("samples.jsonl lists all finished videos: 2.")


def parsed(stage: str, *args: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        COMMANDS[stage](["fit", *args, "--print_config"])
    shown = capsys.readouterr()
    assert ended.value.code in (0, None), shown.err
    return yaml.safe_load(shown.out)


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_experiments_parse_from_any_folder(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = yaml.safe_load(config.read_text())
    stage = "vae" if config.stem.startswith("vae") else "dit"
    found = parsed(stage, "--config", config.name, capsys=capsys)
    assert found["trainer"]["max_steps"] == given["trainer"]["max_steps"]
    name = "arvae" if stage == "vae" else "dit"
    if name not in given["model"]:  # model.start brings the network
        assert found["model"][name] is None
    else:
        assert found["model"][name]["class_path"] == given["model"][name]["class_path"]


def test_own_config_wins_over_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dit_tiny.yaml").write_text("trainer: {max_steps: 77}")
    for args in (["--config=dit_tiny.yaml"], ["-c", "dit_tiny.yaml"]):
        assert parsed("dit", *args, capsys=capsys)["trainer"]["max_steps"] == 77
    shipped = parsed("vae", "--config=vae_tiny.yaml", capsys=capsys)
    assert shipped["trainer"]["max_steps"] != 77


@pytest.mark.parametrize("name", sorted(p.name for p in (CONFIGS / "data").glob("*.yaml")))
def test_shipped_data_sets_join_an_experiment(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = yaml.safe_load((CONFIGS / "data" / name).read_text())
    found = parsed("vae", "--config", "vae_tiny.yaml", "--data", f"data/{name}", capsys=capsys)
    assert found["data"]["root"] == given["root"]


@pytest.mark.parametrize("stage", COMMANDS)
@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_help_lists_the_options(stage: str, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        COMMANDS[stage]([verb, "--help"])
    assert ended.value.code in (0, None)
    shown = capsys.readouterr().out
    assert "torch.nn." not in shown and "best model" not in shown  # what only Lightning knows of
    listed = set(re.findall(r"--([\w.]+)", shown))
    assert {"ckpt_path", "config", "seed_everything", "trainer.precision"} <= listed
    own = {"samples", "frames", "steps", "difference", "guidance", "labels", "output", "seed"}
    if verb == "predict":
        assert (own if stage == "dit" else {"output"}) <= listed
    else:
        assert {"model.optimizer", "model.compile", "data.root"} <= listed


def test_help_of_the_commands_lists_their_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS.values():
        with pytest.raises(SystemExit):
            command(["--help"])
        shown = capsys.readouterr().out
        assert all(verb in shown for verb in ("fit", "validate", "test", "predict"))


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (["--config", "vae_tiny.yaml"], ["--config", "SHIPPED/vae_tiny.yaml"]),
        (["--data=data/ucf101.yaml"], ["--data=SHIPPED/data/ucf101.yaml"]),
        (["--data", "x" * 500], ["--data", "x" * 500]),
        (["--model", "vae_tiny.yaml"], ["--model", "vae_tiny.yaml"]),
    ],
)
def test_names_of_shipped_configs_are_found(
    args: list[str], found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_configs(args) == [arg.replace("SHIPPED", str(CONFIGS)) for arg in found]
