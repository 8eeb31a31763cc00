from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from stages import (
    make_arvae,
    make_data,
    make_dit,
    make_loader,
    make_trainer,
    save_tokenizer,
    weights,
)
from torch import Tensor
from torch.optim import SGD
from torch.testing import assert_close

from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import DDIM
from ardiffusion.diffusion.target import X0, Epsilon, Target, Velocity
from ardiffusion.diffusion.timesteps import FoPP, Mixture
from ardiffusion.generator import Generator
from ardiffusion.training.arvae import ARVAEModule
from ardiffusion.training.callbacks.ema import EMA
from ardiffusion.training.diffusion import DiffusionModule
from ardiffusion.training.trainers import EncodingTrainer

pytestmark = pytest.mark.filterwarnings(
    "ignore:Attribute|You defined a|Checkpoint directory|Found .* in eval mode|Detected|The noise"
)


@pytest.fixture(scope="module")
def latents(tokenizer: Path, skies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A latent cache of the skies."""
    folder = tmp_path_factory.mktemp("cache") / "latents"
    module = ARVAEModule(make_arvae(), perceptual=0.0, adversarial=0.0)
    EncodingTrainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False).predict(
        module, make_data(skies), ckpt_path=str(tokenizer), output=str(folder)
    )
    return folder


def make_module(tokenizer: Path, classes: int = 0, **options: Any) -> DiffusionModule:  # noqa: ANN401
    settings = {"optimizer": partial(SGD, lr=0.1), "dit": make_dit(classes=classes)}
    return DiffusionModule(arvae=str(tokenizer), **{**settings, **options})


def train(module: DiffusionModule, path: Path | None = None, **options: Any) -> None:  # noqa: ANN401
    trainer = make_trainer(**{"max_steps": 1, **options})
    trainer.fit(module, make_loader(4))
    if path is not None:
        trainer.save_checkpoint(path)


def alpha_sigma(t: int) -> tuple[float, float]:
    """Walk through a schedule of ten steps."""
    abar = 1.0
    for u in range(t + 1):
        root = 1e-4**0.5 + u / 9 * (0.7**0.5 - 1e-4**0.5)
        abar *= 1 - root**2
    return abar**0.5, (1 - abar) ** 0.5


@pytest.mark.parametrize("target", [X0(), Epsilon(), Velocity()])
def test_loss_equals_a_naive_loop(target: Target, tokenizer: Path) -> None:
    schedule = NoiseSchedule(beta_end=0.7, timesteps=10)
    module = make_module(tokenizer, target=target, schedule=schedule).double()
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 2, 3, 2, 4, generator=generator, dtype=torch.float64)
    t = torch.tensor([[0, 4, 9], [2, 2, 5]])
    loss = module.loss(x, label=torch.zeros(2).long(), t=t, noise=noise, null=None, seen=x)
    for b in range(2):
        factors = [alpha_sigma(int(step)) for step in t[b]]
        x_t = torch.stack(
            [a * x[b, f] + s * noise[b, f] for f, (a, s) in enumerate(factors)]
        )  # (F, L, C)
        output = module.dit(x_t[None], t[b : b + 1])[0]
        for f, (a, s) in enumerate(factors):
            velocity = a * noise[b, f] - s * x[b, f]
            wanted = {"X0": x[b, f], "Epsilon": noise[b, f], "Velocity": velocity}
            error = (output[f] - wanted[type(target).__name__]) ** 2
            assert_close(loss[b, f], error.mean(), rtol=1e-5, atol=1e-6)


class Listener(DiffusionModule):
    """Keeps what the loss is computed from."""

    heard: list[dict[str, Any]]

    def loss(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Tensor,
        **given: Any,  # noqa: ANN401
    ) -> Tensor:
        self.heard = [*getattr(self, "heard", []), {"x": x, **given}]
        return super().loss(x, **given)


def listen(tokenizer: Path, **options: Any) -> Listener:  # noqa: ANN401
    return Listener(dit=make_dit(classes=2), arvae=str(tokenizer), **options)


def test_classes_are_dropped_at_the_stated_rate(tokenizer: Path) -> None:
    module = listen(tokenizer, class_dropout=0.3)
    make_trainer(max_steps=20).fit(module, make_loader(20, batch=40, frames=1))
    null = torch.cat([heard["null"] for heard in module.heard])
    deviation = (0.3 * 0.7 / len(null)) ** 0.5
    assert abs(null.double().mean() - 0.3) < 3 * deviation
    assert len({tuple(heard["null"].tolist()) for heard in module.heard}) == 20


def test_no_class_is_a_class_of_its_own(tokenizer: Path) -> None:
    dit = make_module(tokenizer, classes=2).dit
    x, t = torch.randn(1, 2, 2, 4), torch.full((1, 2), 500)
    given = [dit(x, t, label=torch.tensor([c])) for c in (0, 1)]
    dropped = [dit(x, t, label=torch.tensor([c]), null=torch.tensor([True])) for c in (0, 1)]
    assert_close(*dropped, rtol=0, atol=0)
    assert min((dropped[0] - output).abs().max() for output in given) > 1e-3


def test_batches_draw_timesteps_and_noise_of_their_own(tokenizer: Path) -> None:
    torch.manual_seed(7)
    module = listen(tokenizer)
    train(module, max_steps=4)
    assert len({float(heard["noise"].sum()) for heard in module.heard}) == 4
    assert len({tuple(heard["t"].flatten().tolist()) for heard in module.heard}) == 4


def test_cached_latents_train_as_clips_do(tokenizer: Path, latents: Path, skies: Path) -> None:
    from_clips, from_cache = (listen(tokenizer, class_dropout=0.5) for _ in range(2))
    for module, cache in ((from_clips, None), (from_cache, str(latents))):
        module.dit = make_dit(classes=4)
        torch.manual_seed(0)
        make_trainer(max_steps=3).fit(module, datamodule=make_data(skies, latents=cache))
    for one, other in zip(from_clips.heard, from_cache.heard, strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert_close(one["x"].norm(dim=-1), torch.ones(2, 4, 2))


def test_cache_of_another_arvae_is_refused(latents: Path, skies: Path, tmp_path: Path) -> None:
    other = save_tokenizer(tmp_path / "other.ckpt", seed=9)
    data = make_data(skies, latents=str(latents))
    for run in (make_trainer().fit, make_trainer().validate):
        with pytest.raises(ValueError, match="comes from another AR-VAE"):
            run(make_module(other), datamodule=data)


@pytest.mark.parametrize(
    ("dit", "data", "sentence"),
    [
        ({"tokens": 4}, {}, "network takes 4 x 4 numbers a frame, the AR-VAE makes 2 x 4"),
        ({"classes": 3}, {}, "network has 3 classes, the data 4; set dit.classes"),
        ({}, {"resolution": 8}, "--data.resolution is 8, but the autoencoder takes 16"),
    ],
)
def test_what_does_not_match_is_named(
    tokenizer: Path, skies: Path, dit: dict[str, Any], data: dict[str, Any], sentence: str
) -> None:
    module = make_module(tokenizer, dit=make_dit(**dit))
    with pytest.raises(ValueError, match=sentence):
        make_trainer(max_steps=1).fit(module, datamodule=make_data(skies, **data))


def test_missing_parts_and_bad_settings_are_named(tokenizer: Path) -> None:
    with pytest.raises(ValueError, match=r"Stage 2 needs --model\.dit, the network"):
        DiffusionModule(arvae=str(tokenizer))
    with pytest.raises(ValueError, match=r"Stage 2 needs --model\.arvae"):
        DiffusionModule(dit=make_dit())
    with pytest.raises(ValueError, match=r"class_dropout is a probability, got 1\.5"):
        make_module(tokenizer, class_dropout=1.5)


def test_checkpoint_generates_without_the_files_it_was_made_from(
    tokenizer: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "vae.ckpt"
    mine.write_bytes(tokenizer.read_bytes())
    module = make_module(
        mine, classes=2, target=Velocity(), schedule=NoiseSchedule(beta_end=0.03), steps=7
    )
    train(module, path=tmp_path / "dit.ckpt")
    mine.unlink()
    checkpoint = torch.load(tmp_path / "dit.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"dit", "arvae"}
    loaded = Generator.from_pretrained(tmp_path / "dit.ckpt")
    assert loaded.classes == ["0", "1"]
    assert_close(weights(loaded), weights(module), rtol=0, atol=0)
    assert loaded.schedule.beta_end == 0.03 and loaded.sampler().steps == 7
    videos = [
        m.eval().generate([5, 6], 3, labels=[1, 0], sampler=m.sampler(steps=3, guidance=2.0))
        for m in (module.generator, loaded)
    ]
    assert videos[0].dtype == torch.uint8 and videos[0].shape == (2, 3, 3, 16, 16)
    assert_close(*videos, rtol=0, atol=0)


def test_generator_has_the_averaged_weights(tokenizer: Path, tmp_path: Path) -> None:
    module, ema = make_module(tokenizer), EMA(decay=0.5)
    train(module, path=tmp_path / "dit.ckpt", callbacks=[ema], max_steps=3)
    loaded = weights(Generator.from_pretrained(tmp_path / "dit.ckpt"))
    averages = {name: loaded[name] for name in loaded if name.startswith("dit.")}
    assert_close(averages, ema.shadow, rtol=0, atol=0)
    assert not torch.equal(loaded["dit.out.weight"], weights(module)["dit.out.weight"])


def test_gathered_batches_have_noise_of_their_own(tokenizer: Path) -> None:
    module = listen(tokenizer)
    train(module, max_steps=2, accumulate_grad_batches=2)
    assert len({float(heard["noise"].sum()) for heard in module.heard}) == 4


def test_validation_loss_is_the_same_in_every_run(tokenizer: Path) -> None:
    losses = []
    for seed in (1, 2):
        module = make_module(tokenizer, classes=2)
        torch.manual_seed(seed)
        trainer = make_trainer()
        trainer.validate(module, make_loader(3), verbose=False)
        losses.append(trainer.callback_metrics["val/loss"])
    assert_close(*losses, rtol=0, atol=0)


def test_resuming_with_another_network_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    train(make_module(tokenizer), path=tmp_path / "dit.ckpt")
    wider = make_module(tokenizer, dit=make_dit(width=32))
    with pytest.raises(ValueError, match="checkpoint's dit has width 16, the configured one 32"):
        make_trainer().fit(wider, make_loader(1), ckpt_path=tmp_path / "dit.ckpt")
    with pytest.raises(ValueError, match="checkpoint was made by ardiff-vae, but ardiff-dit"):
        make_trainer().fit(make_module(tokenizer), make_loader(1), ckpt_path=tokenizer)


def test_schedule_counts_steps_of_the_optimiser(tokenizer: Path, tmp_path: Path) -> None:
    schedule = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 1 / (1 + step))
    module = make_module(tokenizer, lr_scheduler=schedule)
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2)
    train(
        module,
        max_steps=2,
        accumulate_grad_batches=2,
        callbacks=[keep],
        enable_checkpointing=True,
    )
    optimizer = module.optimizers(use_pl_optimizer=False)
    assert isinstance(optimizer, SGD)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 3)
    assert [path.name for path in tmp_path.iterdir()] == ["step=2.ckpt"]


class Mine(FoPP):
    """A sampler that no table names."""


class OwnSolver(DDIM):
    """A solver that no table names."""


def test_own_parts_are_told_before_training_and_do_not_spoil_checkpoints(
    tokenizer: Path, tmp_path: Path
) -> None:
    module = make_module(
        tokenizer, timesteps=Mixture([Mine(), FoPP()], [1, 1]), solver=OwnSolver()
    )
    with pytest.warns(UserWarning, match="which need OwnSolver: name own classes in PARTS"):
        train(module, path=tmp_path / "last.ckpt")
    found = torch.load(tmp_path / "last.ckpt", weights_only=True)["parts"]
    assert found["timesteps"]["arguments"]["samplers"][0] == {"class": "Mine", "arguments": {}}
    with pytest.raises(ValueError, match="asks for 'OwnSolver'"):
        Generator.from_pretrained(tmp_path / "last.ckpt")
