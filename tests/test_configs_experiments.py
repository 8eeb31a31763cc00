"""Overlays of configs/experiments: each joins both base configs of its stage and builds."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli_runs import COMMANDS
from jsonargparse import ArgumentParser
from torch import nn
from torch.optim import AdamW

from ardiffusion.diffusion.target import X0, Epsilon, Target, Velocity
from ardiffusion.diffusion.timesteps import (
    FoPP,
    Independent,
    Mixture,
    NonDecreasing,
    Synchronous,
    Timesteps,
)
from ardiffusion.diffusion.weighting import LearnedVariance, Uniform
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.joint import JointDiT
from ardiffusion.training.arvae import ARVAEModule
from ardiffusion.training.diffusion import DiffusionModule
from ardiffusion.training.muon import Muon

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The noise|Attribute")
CONFIGS = Path(__file__).parents[1] / "configs"
METHODS: dict[str, tuple[type[ARDiT], type[Timesteps], type[Target]]] = {
    "ar_diffusion": (ARDiT, FoPP, X0),
    "diffusion_forcing": (JointDiT, Independent, Velocity),
    "synchronous": (JointDiT, Synchronous, Epsilon),
    "nondecreasing": (ARDiT, NonDecreasing, X0),
    "independent": (ARDiT, Independent, X0),
    "plan_rows": (ARDiT, Mixture, X0),
    "best": (ARDiT, Mixture, X0),
}
# Stage 2: learning rate, clipping, accumulation; stage 1: learning rate, start of the GAN
DATA = {
    "sky": (2e-4, 1.0, 6, 2e-4, 100_000),
    "taichi": (2e-4, 1.0, 6, 1e-4, 50_000),
    "ucf101": (1e-4, 0.1, 6, 2e-4, 100_000),
    "ffs": (1e-4, 0.1, 3, 1e-4, 50_000),
}
SMALL = {
    "dit": {"width": 16, "depth": 1, "heads": 2},
    "arvae": {"width": 16, "depth": 1, "heads": 2, "pixel_width": 4, "embedding": 8},
}


def parsed(stage: str, *args: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        COMMANDS[stage](["fit", *args, "--print_config"])
    shown = capsys.readouterr()
    assert ended.value.code in (0, None), shown.err
    assert not shown.err
    return yaml.safe_load(shown.out)


def built(found: dict[str, Any], network: str) -> Any:  # noqa: ANN401
    """Build the module of a parsed config, with a small network."""
    found["model"][network]["init_args"] |= SMALL[network]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(DiffusionModule if network == "dit" else ARVAEModule, "model")
    return parser.instantiate_classes(parser.parse_object({"model": found["model"]}))["model"]


def rate(module: DiffusionModule | ARVAEModule) -> float:
    optimizer = module.optimizer([nn.Parameter(torch.zeros(1))])
    assert optimizer.defaults["fused"] and optimizer.defaults["weight_decay"] == 1e-4
    return optimizer.defaults["lr"]


def command(name: str) -> str:
    """Return the command that an overlay's first line names."""
    path = CONFIGS / "experiments" / f"{name}.yaml"
    return path.read_text().splitlines()[0].removeprefix("# ")


@pytest.mark.parametrize("base", ["dit.yaml", "dit_tiny.yaml"])
@pytest.mark.parametrize("name", METHODS)
def test_methods_differ_in_what_they_say(
    name: str,
    base: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = command(name)
    overlay = f"experiments/{name}.yaml"
    assert wanted == f"ardiff-dit fit --config dit.yaml --config {overlay} --data data/sky.yaml"
    args = wanted.replace("dit.yaml", base).split()[2:]
    found = parsed("dit", *args, capsys=capsys)
    given = yaml.safe_load((CONFIGS / base).read_text())["model"]["dit"]["init_args"]
    assert given.items() <= found["model"]["dit"]["init_args"].items()
    assert found["trainer"]["logger"]["init_args"]["save_dir"] == f"runs/{name}"
    assert found["data"]["root"] == "data/sky_timelapse"
    module = built(found, "dit")
    network, timesteps, target = METHODS[name]
    assert type(module.dit) is network
    assert (type(module.timesteps), type(module.target)) == (timesteps, target)
    assert type(module.weighting) is (LearnedVariance if name == "best" else Uniform)
    optimizer = module.optimizer([nn.Parameter(torch.zeros(32, 32)), nn.Parameter(torch.zeros(1))])
    assert type(optimizer) is (Muon if base == "dit_tiny.yaml" or name == "best" else AdamW)
    ends = (8.5e-4, 0.012) if name == "diffusion_forcing" else (1e-4, 0.02)
    assert (module.schedule.beta_start, module.schedule.beta_end) == ends


@pytest.mark.parametrize("base", ["dit.yaml", "dit_tiny.yaml"])
@pytest.mark.parametrize("name", DATA)
def test_stage_2_takes_the_settings_of_a_data_set(
    name: str, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = f"--config experiments/{name}.yaml --data data/{name}.yaml"
    latents = f"--data.latents data/latents/{name}"
    assert command(name) == f"ardiff-dit fit --config dit.yaml {overlay} {latents}"
    found = parsed("dit", "--config", base, *overlay.split(), *latents.split(), capsys=capsys)
    lr, clip, accumulate, _, _ = DATA[name]
    assert found["trainer"]["gradient_clip_val"] == clip
    assert found["trainer"]["accumulate_grad_batches"] == accumulate
    assert found["trainer"]["logger"]["init_args"]["save_dir"] == f"runs/dit_{name}"
    assert found["data"]["latents"] == f"data/latents/{name}"
    assert (found["data"]["frames"], found["data"]["stride"]) == (16, 1)
    module = built(found, "dit")
    assert rate(module) == lr
    assert module.arvae_source == f"runs/vae_{name}/checkpoints/last.ckpt"
    if name == "ucf101":
        assert module.dit.classes == 101


@pytest.mark.parametrize("base", ["vae.yaml", "vae_tiny.yaml"])
@pytest.mark.parametrize("name", DATA)
def test_stage_1_takes_the_settings_of_a_data_set(
    name: str, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = f"--data data/{name}.yaml --config experiments/vae_{name}.yaml"
    assert command(f"vae_{name}") == f"ardiff-vae fit --config vae.yaml {overlay}"
    found = parsed("vae", "--config", base, *overlay.split(), capsys=capsys)
    assert found["trainer"]["logger"]["init_args"]["save_dir"] == f"runs/vae_{name}"
    assert (found["data"]["frames"], found["data"]["clips_per_video"]) == (1, 16)
    found["model"]["perceptual"] = 0.0  # its network's weights are a download
    module = built(found, "arvae")
    lr, start = DATA[name][3:]
    assert (rate(module), module.adversarial_start) == (lr, start)


@pytest.mark.parametrize("base", ["dit.yaml", "dit_tiny.yaml"])
def test_synchronous_diffusion_is_sampled_as_it_is_trained(
    base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = f"--config {base} --config experiments/synchronous.yaml"
    assert parsed("dit", *args.split(), capsys=capsys)["model"]["difference"] == 0


@pytest.mark.parametrize("base", ["dit.yaml", "dit_tiny.yaml"])
def test_the_grid_joins_both_bases(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = f"--config {base} --config experiments/grid_dit.yaml"
    found = parsed("dit", *args.split(), capsys=capsys)
    assert found["model"]["dit"]["init_args"]["tokens"] == 1024
    assert found["data"]["batch_size"] == 2


def test_a_method_joins_a_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    args = "--config dit.yaml --config experiments/ffs.yaml --config experiments/synchronous.yaml"
    found = parsed("dit", *args.split(), capsys=capsys)
    assert found["model"]["dit"]["class_path"].endswith("JointDiT")
    assert found["trainer"]["gradient_clip_val"] == 0.1
    assert found["trainer"]["logger"]["init_args"]["save_dir"] == "runs/synchronous"
