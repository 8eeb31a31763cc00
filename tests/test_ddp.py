import json
import time
import zlib
from collections import Counter
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from recorder import Recorder, assert_same_videos
from stages import make_arvae, make_data, make_dit, make_first_stage, make_trainer, weights
from torch import Tensor, nn
from torch.optim import SGD
from torch.testing import assert_close

from ardiffusion.data.cache_index import read_index
from ardiffusion.data.latents import LatentCache
from ardiffusion.data.publishing import publish_videos, staging_folder
from ardiffusion.data.windows import EveryWindow
from ardiffusion.diffusion.weighting import LearnedVariance
from ardiffusion.files import read_json_lines
from ardiffusion.training import predict as predicting
from ardiffusion.training.arvae import ARVAEModule
from ardiffusion.training.callbacks.ema import EMA
from ardiffusion.training.callbacks.save_last import SaveLast
from ardiffusion.training.callbacks.stability import LOG, Stability
from ardiffusion.training.data import VideoDataModule
from ardiffusion.training.diffusion import DiffusionModule
from ardiffusion.training.trainers import EncodingTrainer, SamplingTrainer

pytestmark = pytest.mark.filterwarnings(
    "ignore:Attribute|You defined a|Found .* in eval mode|.*fork|Using ModelCheckpoint|Detected"
)
ONE: dict[str, Any] = {"devices": 1}
TWO: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork"}


class Tell(Callback):
    """Write what each process has in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        learned = weights(getattr(pl_module, "weighting", nn.Identity()))
        told = {"weights": weights(pl_module) | learned, "noise": getattr(pl_module, "noise", [])}
        averages = [c.shadow for c in trainer.callbacks if isinstance(c, EMA)]  # pyright: ignore[reportAttributeAccessIssue]
        torch.save({**told, "averages": averages}, self.folder / f"{trainer.global_rank}.pt")


def fit(
    module: LightningModule,
    root: Path | str,
    folder: Path,
    **options: Any,  # noqa: ANN401
) -> list[dict[str, Any]]:
    folder.mkdir()
    data = make_data(
        root, batch_size=4 // options.get("devices", 1), latents=options.pop("latents", None)
    )
    callbacks = [Tell(folder), *options.pop("callbacks", [])]
    last = options.pop("ckpt_path", None)
    trainer = make_trainer(max_steps=4, callbacks=callbacks, **options)
    trainer.fit(module, datamodule=data, ckpt_path=last)
    return [torch.load(path) for path in sorted(folder.glob("*.pt"))]


class Keys(Callback):
    """Write the keys of all clips of an epoch that a process trains on."""

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: dict[str, Any],
        batch_idx: int,
    ) -> None:
        path = Path(
            trainer.default_root_dir, f"{trainer.current_epoch}.{trainer.global_rank}.keys"
        )
        with path.open("a") as file:
            file.writelines(f"{key}\n" for key in batch["key"])


def train_and_save(root: Path, folder: Path, size: int, **options: Any) -> None:  # noqa: ANN401
    """Train stage 1 with so many clips a batch, from its checkpoint if there is one."""
    keep = ModelCheckpoint(folder, every_n_train_steps=100, save_last=True, save_top_k=0)
    options |= {"callbacks": [Keys(), SaveLast(), keep], "enable_checkpointing": True}
    trainer = make_trainer(default_root_dir=folder, **options)
    data = make_data(root, batch_size=size, clips_per_video=4)
    trainer.fit(make_first_stage(), datamodule=data, ckpt_path="last")


def test_each_clip_comes_once_in_an_epoch_whatever_processes_share_it(
    skies: Path, tmp_path: Path
) -> None:
    def seen(folder: Path, epoch: int) -> Counter[str]:
        texts = [path.read_text() for path in folder.glob(f"{epoch}.*.keys")]
        return Counter(key for text in texts for key in text.splitlines())

    whole, legs = tmp_path / "whole", tmp_path / "legs"
    whole.mkdir()
    legs.mkdir()
    train_and_save(skies, whole, size=3, devices=1, max_epochs=2, max_steps=-1)
    for devices, size, steps in ((1, 2, 3), (2, 3, 5), (4, 2, 7), (1, 5, -1)):
        ends = {"max_epochs": 2 if steps < 0 else None, "max_steps": steps}
        strategy = "auto" if devices == 1 else "ddp_fork"
        train_and_save(skies, legs, size=size, devices=devices, strategy=strategy, **ends)
    for epoch in range(2):
        assert seen(legs, epoch) == seen(whole, epoch)
        assert seen(whole, epoch).total() == 40


def test_counting_frames_may_take_longer_than_processes_wait_for_each_other(
    skies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = VideoDataModule.prepare_data

    def count_slowly(self: VideoDataModule) -> None:
        time.sleep(4)
        prepare(self)

    monkeypatch.setattr(VideoDataModule, "prepare_data", count_slowly)
    strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=2))
    make_trainer(devices=2, strategy=strategy).fit(make_first_stage(), datamodule=make_data(skies))


class Fixed(DiffusionModule):
    """Draws timesteps and noise from the names of the clips, in whatever process they are."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        x = self.latents(batch)
        seeds = [zlib.crc32(key.encode()) for key in batch["key"]]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators])
        t = torch.cat([self.timesteps(1, x.shape[1], generator=g) for g in generators])
        losses = self.loss(x, label=batch["label"], t=t, noise=noise, null=None, seen=x)
        levels = (level[..., 0, 0] for level in self.schedule.alpha_sigma(t, dtype=x.dtype))
        return self.weighting.weigh(losses, *levels).mean()


class Listener(DiffusionModule):
    """Keeps the timesteps and the noise that it draws."""

    noise: list[Tensor]

    def loss(self, x: Tensor, **given: Any) -> Tensor:  # noqa: ANN401  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.training:
            drawn = [given[name].flatten() for name in ("noise", "t")]
            self.noise = [*getattr(self, "noise", []), *drawn]
        return super().loss(x, **given)


def test_two_processes_train_stage_2_as_one_does(
    tokenizer: Path, skies: Path, tmp_path: Path
) -> None:
    told = []
    for name, options in {"one": ONE, "two": TWO}.items():
        parts = {"dit": make_dit(), "arvae": str(tokenizer), "weighting": LearnedVariance()}
        module = Fixed(**parts, optimizer=partial(SGD, lr=0.02))
        told.append(fit(module, skies, tmp_path / name, callbacks=[EMA(decay=0.5)], **options))
    (one,), (first, second) = told
    assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    assert_close(first["averages"], second["averages"], rtol=0, atol=0)
    assert_close(first["weights"], one["weights"], rtol=1e-4, atol=1e-6)
    assert (first["weights"]["coefficients"] != 0).all()
    start = make_dit().state_dict()
    assert all(not torch.equal(first["weights"][f"dit.{name}"], start[name]) for name in start)


class SaveWithinStep(Callback):
    """Write a checkpoint after the first batch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *_: object, **__: object) -> None:
        if trainer.fit_loop.total_batch_idx == 0:
            trainer.save_checkpoint(self.path)


def test_gradients_that_each_process_gathered_are_kept(
    tokenizer: Path, skies: Path, tmp_path: Path
) -> None:
    def train(name: str, *callbacks: Callback, **options: Any) -> Any:  # noqa: ANN401
        torch.manual_seed(0)
        optimizer = partial(SGD, lr=0.1)
        module = DiffusionModule(dit=make_dit(), arvae=str(tokenizer), optimizer=optimizer)
        given = {"callbacks": [SaveLast(), Stability(), *callbacks], "accumulate_grad_batches": 2}
        given |= {"default_root_dir": tmp_path / name}
        told = fit(module, skies, tmp_path / name, **given, **TWO, **options)
        return told[0]["weights"], read_json_lines(tmp_path / name / LOG)

    saved = tmp_path / "within.ckpt"
    whole, log = train("whole", SaveWithinStep(saved))
    again, log_again = train("again", ckpt_path=saved)
    assert_close(again, whole, rtol=1e-6, atol=1e-6)  # sums in another order
    assert_close(log_again[0]["loss"], log[0]["loss"])


def test_processes_draw_noise_and_timesteps_of_their_own(
    tokenizer: Path, skies: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = Listener(dit=make_dit(), arvae=str(tokenizer))
    first, second = fit(module, skies, tmp_path / "told", **TWO)
    assert len(first["noise"]) == len(second["noise"]) == 8
    assert len({tuple(drawn.tolist()) for drawn in first["noise"] + second["noise"]}) == 16


def test_two_processes_train_stage_1_as_one_does(skies: Path, tmp_path: Path) -> None:
    (one,) = fit(make_first_stage(accumulate=2), skies, tmp_path / "one")
    first, second = fit(make_first_stage(accumulate=2), skies, tmp_path / "two", **TWO)
    assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    assert_close(first["weights"], one["weights"], rtol=1e-4, atol=1e-6)


def test_processes_agree_on_autoencoder_and_discriminator(skies: Path, tmp_path: Path) -> None:
    module = make_first_stage(adversarial=1.0, adversarial_start=1, sampled=True)
    before = weights(module)
    first, second = fit(module, skies, tmp_path / "told", **TWO)
    names = [name for name, _ in module.named_parameters()]
    for name in names:
        assert_close(first["weights"][name], second["weights"][name], rtol=0, atol=0)
    changed = {n.split(".")[0] for n in names if not torch.equal(first["weights"][n], before[n])}
    assert changed == {"arvae", "discriminator"}


def test_two_processes_generate_what_one_does(
    generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "VideoWriter", Recorder)
    lines = []
    for name, options in {"one": ONE, "two": TWO}.items():
        trainer = SamplingTrainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, **options
        )
        given: dict[str, Any] = {
            "samples": 5,
            "frames": 4,
            "steps": 3,
            "difference": 1,
            "batch_size": 2,
        }
        trainer.predict(ckpt_path=str(generator), output=str(tmp_path / name), **given)
        text = (tmp_path / name / "samples.jsonl").read_text()
        lines.append(sorted(map(json.loads, text.splitlines()), key=lambda line: line["index"]))
    assert [line["index"] for line in lines[1]] == [0, 1, 2, 3, 4]
    assert lines[0] == lines[1]
    assert_same_videos(tmp_path / "one", tmp_path / "two")


def test_two_processes_encode_to_an_address_and_train_from_it(
    tokenizer: Path, skies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("litdata", reason="litdata is not installed: the extra `stream` brings it")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    url = f"local:{tmp_path}/bucket/latents"
    for _ in range(2):  # the second finds nothing to do
        module = ARVAEModule(make_arvae(), perceptual=0.0, adversarial=0.0)
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False}
        trainer = EncodingTrainer(accelerator="cpu", **quiet, **TWO)
        trainer.predict(module, make_data(skies), ckpt_path=str(tokenizer), output=url)
    ends = {}
    for name, latents in {"local": str(staging_folder(url)), "stream": url}.items():
        module = DiffusionModule(dit=make_dit(classes=4), arvae=str(tokenizer))
        told = fit(module, skies, tmp_path / name, latents=latents, **TWO)
        ends[name] = [one["weights"] for one in told]
    assert len(ends["stream"]) == 2
    assert_close(ends["stream"], ends["local"], rtol=0, atol=0)


def test_two_processes_train_from_videos_at_an_address_as_from_files(
    skies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("litdata", reason="litdata is not installed: the extra `stream` brings it")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    url = f"local:{tmp_path}/bucket/videos"
    publish_videos(skies, url)
    files = fit(make_first_stage(), skies, tmp_path / "files", **TWO)
    stream = fit(make_first_stage(), url, tmp_path / "stream", **TWO)
    assert len(stream) == 2
    assert_close(stream, files, rtol=0, atol=0)


def test_two_processes_encode_what_one_does(tokenizer: Path, skies: Path, tmp_path: Path) -> None:
    found = []
    for name, options in {"one": ONE, "two": TWO}.items():
        module = ARVAEModule(make_arvae(), perceptual=0.0, adversarial=0.0)
        trainer = EncodingTrainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, **options
        )
        output = tmp_path / name
        trainer.predict(module, make_data(skies), ckpt_path=str(tokenizer), output=str(output))
        cache = LatentCache(output)
        clips = EveryWindow(cache, cache.spans["train"], frames=4)
        found.append({clips[i]["key"]: clips[i]["latents"] for i in range(len(clips))})
    assert len(found[0]) == 10 * 5
    assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
    indices = [read_index(tmp_path / name) for name in ("one", "two")]
    for name in ("shards", "hashes"):
        assert [len(index.pop(name)) for index in indices] == [1, 2]  # pyright: ignore[reportArgumentType]
    assert indices[0] == indices[1]
