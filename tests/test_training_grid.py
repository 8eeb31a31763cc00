from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli_runs import COMMANDS, DIT, FIT, SAMPLES, VAE, spell
from stages import make_data, make_dit, make_first_stage, make_loader, make_trainer, weights
from torch import Tensor

from ardiffusion.data.cache_index import read_index
from ardiffusion.data.video import count_frames
from ardiffusion.hub import load_arvae
from ardiffusion.nn.fingerprint import fingerprint
from ardiffusion.nn.grid import MOMENTUM, GridVAE
from ardiffusion.training.arvae import ARVAEModule
from ardiffusion.training.callbacks.stability import Stability
from ardiffusion.training.diffusion import DiffusionModule

pytest.importorskip("diffusers", reason="GridVAE needs diffusers")
EXPERIMENTS = Path(__file__).parents[1] / "configs/experiments"
SIZES = {"widths": [4, 8], "groups": 2, "layers": 1, "resolution": 16}


def make_grid() -> GridVAE:
    torch.manual_seed(0)
    return GridVAE(resolution=16, widths=(4, 8), layers=1, groups=2)


@pytest.mark.parametrize("adversarial", [0.0, 1.0])
def test_stage_1_trains_network_and_scale(adversarial: float) -> None:
    module = make_first_stage(arvae=make_grid(), adversarial=adversarial, kl=0.1, sampled=True)
    before = weights(module.arvae)
    trainer = make_trainer(max_steps=2)
    trainer.fit(module, make_loader(2))
    after = weights(module.arvae)
    assert {n for n in after if torch.equal(after[n], before[n])} <= unused(before)
    assert all(value.isfinite().all() for value in after.values())
    logged = trainer.logged_metrics
    assert float(logged["train/kl"]) > 0
    assert ("train/gan_weight" in logged) == (adversarial > 0)


def unused(names: dict[str, torch.Tensor]) -> set[str]:
    """Name the biases of keys, to which a softmax is blind."""
    return {name for name in names if name.endswith("to_k.bias")}


def test_accumulated_batches_move_the_scale_and_nothing_breaks() -> None:
    arvae = make_grid()
    module, scales = make_first_stage(arvae=arvae, accumulate=2), []
    arvae.register_forward_hook(lambda *_: scales.append(arvae.scale.clone()))
    make_trainer(max_steps=3).fit(module, make_loader(3))
    assert len(scales) == 3
    assert not torch.equal(scales[0], scales[1]) and not torch.equal(scales[1], scales[2])


class Told(ARVAEModule):
    """Keeps its state at the start of each step; the second process has a bad step."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        self.told = [*getattr(self, "told", []), weights(self)]
        return super().training_step(batch, batch_idx)

    def draw_noise(self, video: Tensor) -> tuple[Tensor | None, Tensor | None]:
        bad = self.global_rank == 1 and self.global_step == 2
        noise, error = super().draw_noise(video)
        return noise if noise is None or not bad else noise * torch.nan, error

    def on_train_start(self) -> None:
        update, self.latents = self.arvae.update_statistics, list[Tensor]()
        self.arvae.update_statistics = lambda latents: (
            self.latents.append(latents),
            update(latents),
        )  # pyright: ignore[reportAttributeAccessIssue]

    def on_train_end(self) -> None:
        told = {"steps": self.told, "end": weights(self), "latents": self.latents}
        torch.save(told, Path(self.trainer.default_root_dir, f"{self.global_rank}.pt"))


@pytest.mark.filterwarnings("ignore:.*fork|Found|Attribute|Detected|Using")
def test_two_processes_agree_on_statistics_after_a_skipped_step(
    skies: Path, tmp_path: Path
) -> None:
    module = make_first_stage(Told, arvae=make_grid(), adversarial=1.0, sampled=True)
    given: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork", "max_steps": 5}
    trainer = make_trainer(callbacks=[Stability(window=4)], default_root_dir=tmp_path, **given)
    trainer.fit(module, datamodule=make_data(skies))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert len(first["steps"]) == 5 and not torch.equal(first["latents"][0], second["latents"][0])
    buffers = {name for name, _ in module.named_buffers() if name in first["end"]}
    own = {name for name in buffers if "running" in name}  # of batches of each process
    assert own and {"arvae.shift", "arvae.scale"} <= buffers - own
    states = [[*told["steps"], told["end"]] for told in (first, second)]
    for one, other in zip(*states, strict=True):
        common = [{n: x for n, x in state.items() if n not in own} for state in (one, other)]
        torch.testing.assert_close(common[0], common[1], rtol=0, atol=0)
        assert all(value.isfinite().all() for value in (*one.values(), *other.values()))
    for state in states:
        changed = [
            {n for n in buffers if not torch.equal(before[n], after[n])}
            for before, after in pairwise(state)
        ]
        assert changed == [buffers, buffers, set(), buffers, buffers]
    for c in range(4):
        both = torch.cat([x["latents"][0][..., c].flatten() for x in (first, second)]).tolist()
        mean = sum(both) / len(both)
        variance = sum((x - mean) ** 2 for x in both) / len(both)
        shift, scale = (float(first["steps"][1][f"arvae.{n}"][c]) for n in ("shift", "scale"))
        assert shift == pytest.approx(MOMENTUM * mean, rel=1e-5)
        assert scale**2 == pytest.approx(1 + MOMENTUM * (variance - 1), rel=1e-5)


def test_a_frozen_grid_keeps_its_scale_in_stage_2(tmp_path: Path) -> None:
    first = make_first_stage(arvae=make_grid(), sampled=True)
    trainer = make_trainer(max_steps=1)
    trainer.fit(first, make_loader(1))
    trainer.save_checkpoint(tmp_path / "grid.ckpt")
    module = DiffusionModule(dit=make_dit(tokens=64), arvae=str(tmp_path / "grid.ckpt"))
    make_trainer(max_steps=2).fit(module, make_loader(2))
    assert isinstance(module.arvae, GridVAE)
    torch.testing.assert_close(weights(module.arvae), weights(first.arvae), rtol=0, atol=0)


def test_temporal_blocks_are_asked_for_in_vain() -> None:
    with pytest.raises(ValueError, match="temporal_only needs an AR-VAE with temporal: true"):
        make_first_stage(arvae=make_grid(), temporal_only=True)


def command(stage: str, verb: str, overlay: str, settings: dict[str, Any]) -> None:
    tiny = f"{stage}_tiny.yaml"
    overlays = [f"--config={tiny}", f"--config=experiments/{overlay}.yaml"]
    given = {name: value for name, value in settings.items() if name != "config"}
    COMMANDS[stage]([verb, *overlays, *spell(given)])


def test_both_stages_run_from_the_command_line(skies: Path, tmp_path: Path) -> None:
    data = {"data.root": skies, "data.cache": tmp_path / "index"}
    first = {name: value for name, value in VAE.items() if not name.startswith("model.")}
    first |= {f"model.arvae.init_args.{name}": value for name, value in SIZES.items()} | data
    first |= {"trainer.logger.init_args.save_dir": tmp_path / "vae"}
    command("vae", "fit", overlay="grid_vae_tiny", settings={**first, **FIT})
    trained, latents = tmp_path / "vae/checkpoints/last.ckpt", tmp_path / "latents"
    encode = {**first, "data.frames": 4, "ckpt_path": trained, "output": latents}
    command("vae", "predict", overlay="grid_vae_tiny", settings=encode)
    assert read_index(latents)["origin"]["fingerprint"] == fingerprint(load_arvae(trained))

    second = {**DIT, **data, **FIT, "data.latents": latents, "model.arvae": trained}
    second |= {"trainer.logger.init_args.save_dir": tmp_path / "dit"}
    command(
        "dit", "fit", overlay="grid_dit", settings={**second, "model.dit.init_args.tokens": 64}
    )
    sample = {"ckpt_path": tmp_path / "dit/checkpoints/last.ckpt", "output": tmp_path / "samples"}
    COMMANDS["dit"](["predict", *spell({**SAMPLES, **sample, "trainer.accelerator": "cpu"})])
    videos = sorted((tmp_path / "samples").rglob("*.mp4"))
    assert [count_frames(video) for video in videos] == [4, 4]


@pytest.mark.parametrize("size", ["vae", "vae_tiny"])
def test_shipped_grids_have_a_grid_8_times_as_small(size: str) -> None:
    given = yaml.safe_load((EXPERIMENTS / f"grid_{size}.yaml").read_text())["model"]["arvae"]
    assert given["class_path"] == "ardiffusion.nn.grid.GridVAE"
    with torch.device("meta"):
        arvae = GridVAE(**given["init_args"])
    assert arvae.resolution == 8 * arvae.side
    second = yaml.safe_load((EXPERIMENTS / "grid_dit.yaml").read_text())["model"]["dit"]
    tokens = {"vae": second["init_args"]["tokens"], "vae_tiny": 64}[size]
    assert (arvae.tokens, arvae.channels) == (tokens, 4)
