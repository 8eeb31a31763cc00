from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset

from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.metrics.features import I3D, Random3D
from ardiffusion.metrics.fvd import FrechetVideoDistance
from ardiffusion.metrics.image import psnr, ssim
from ardiffusion.training.callbacks.fvd import FVDGen, FVDRec

SAMPLER = Sampler(NoiseSchedule(), steps=4, difference=2)

pytestmark = pytest.mark.filterwarnings("ignore:.*(with .* made videos|LeafSpec|litlogger|GPU)")


def videos(seed: int, count: int, frames: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, frames, 3, 12, 12)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def distance(real: Tensor, fake: Tensor) -> Tensor:
    metric = FrechetVideoDistance(Random3D(width=2))
    metric.update(real=real, fake=fake)
    return metric.compute().float()


def load(video: Tensor, batch_size: int = 1) -> DataLoader[Tensor]:
    return DataLoader(cast(Dataset[Tensor], video), batch_size=batch_size)


class Clips(LightningDataModule):
    reads = 0

    def train_dataloader(self) -> DataLoader[Tensor]:
        return load(videos(0, 2))

    def val_dataloader(self) -> DataLoader[Tensor]:
        return load(videos(1, 6), batch_size=4)

    def test_dataloader(self) -> DataLoader[Tensor]:
        return load(videos(2, 6), batch_size=4)

    def clips(self, split: str, frames: int) -> Iterator[dict[str, Tensor]]:
        self.reads += 1
        seed = {"train": 0, "val": 1, "test": 2}[split]
        for batch in videos(seed, 11, frames=frames).split(3):
            yield {"video": batch}


class Model(LightningModule):
    """Reconstructs by halving; generates noise that the seed decides."""

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.classes = [str(c) for c in range(classes)]
        self.calls: list[tuple[list[int], Tensor | None]] = []
        self.averaged = True

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.weight**2

    def validation_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        return {"real": batch, "fake": batch // 2}

    def test_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        return self.validation_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def sampler(self, steps: int, difference: int, guidance: float) -> Sampler:
        assert (steps, difference, guidance) == (50, 5, 1.0)
        return SAMPLER

    def generate(
        self, sampler: Sampler, seeds: Sequence[int], frames: int, label: Tensor | None = None
    ) -> Tensor:
        assert sampler is SAMPLER and self.averaged
        self.calls.append((list(seeds), label))
        return torch.cat([videos(seed, 1, frames=frames) for seed in seeds])


def trainer(folder: Path, *callbacks: Callback, epochs: int = 1, sanity: int = 2) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        num_sanity_val_steps=sanity,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_reconstructions_are_scored_over_all_batches_but_those_of_the_sanity_check(
    tmp_path: Path,
) -> None:
    run = trainer(tmp_path, FVDRec(Random3D(width=2)), epochs=2)
    run.fit(Model(), datamodule=Clips())
    real, fake = videos(1, 6), videos(1, 6) // 2
    logged = run.callback_metrics
    assert_close(logged["frechet_random3d_rec"], distance(real, fake))
    assert_close(logged["psnr"], psnr(real, fake).mean(), rtol=1e-5, atol=0)
    scores = ssim(real.flatten(0, 1), fake.flatten(0, 1))
    assert_close(logged["ssim"], scores.mean().float(), rtol=1e-5, atol=0)


def test_reconstructions_of_the_test_split_are_scored(tmp_path: Path) -> None:
    (logged,) = trainer(tmp_path, FVDRec(Random3D(width=2))).test(Model(), datamodule=Clips())
    expected = distance(videos(2, 6), videos(2, 6) // 2)
    assert logged["frechet_random3d_rec"] == pytest.approx(expected.item())
    assert {"psnr", "ssim"} <= logged.keys()


def test_few_videos_are_warned_of_and_one_video_is_left_out(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="compares 6 real with 6 made videos; below 256"):
        trainer(tmp_path, FVDRec(Random3D())).validate(Model(), datamodule=Clips())
    run = trainer(tmp_path, FVDRec(Random3D()))
    with pytest.warns(UserWarning, match="left out: 1 real, 1 made"):
        (logged,) = run.validate(Model(), dataloaders=load(videos(1, 1)))
    assert "psnr" in logged and "frechet_random3d_rec" not in logged


def test_a_missing_i3d_is_told_before_training(tmp_path: Path) -> None:
    for callback in (FVDRec, lambda net: FVDGen(net)):
        run = trainer(tmp_path, callback(I3D(path=str(tmp_path / "nowhere.pt"))))
        with pytest.raises(FileNotFoundError, match=r"nowhere\.pt; download https"):
            run.fit(Model(), datamodule=Clips())
        assert run.global_step == 0


def test_nothing_of_the_callbacks_enters_a_checkpoint(tmp_path: Path) -> None:
    model = Model()
    gen = FVDGen(Random3D(), frames=3, samples=4)
    run = trainer(tmp_path, FVDRec(Random3D()), gen)
    run.fit(model, datamodule=Clips())
    run.save_checkpoint(tmp_path / "model.ckpt")
    checkpoint = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert list(checkpoint["state_dict"]) == ["weight"] and not checkpoint["callbacks"]


@pytest.mark.parametrize("batch_size", [3, 8])
def test_generated_videos_are_compared_with_as_many_real_clips(
    tmp_path: Path, batch_size: int
) -> None:
    model = Model()
    callback = FVDGen(Random3D(width=2), frames=5, samples=8, batch_size=batch_size, seed=3)
    run = trainer(tmp_path, callback)
    run.fit(model, datamodule=Clips())
    seeds = [seed for seeds, _ in model.calls for seed in seeds]
    assert seeds == [3_000_000 + i for i in range(8)]
    fake = torch.cat([videos(seed, 1, frames=5) for seed in seeds])
    expected = distance(videos(1, 11, frames=5)[:8], fake)
    assert_close(run.callback_metrics["frechet_random3d_gen"], expected)


def test_test_generates_too_and_real_clips_come_from_the_named_split(tmp_path: Path) -> None:
    callback = FVDGen(Random3D(width=2), frames=4, samples=20, split="train")
    (logged,) = trainer(tmp_path, callback).test(Model(), datamodule=Clips())
    fake = torch.cat([videos(seed, 1, frames=4) for seed in range(20)])
    expected = distance(videos(0, 11, frames=4), fake)
    assert logged["frechet_random3d_gen"] == pytest.approx(expected.item(), rel=1e-5)


def test_epochs_between_generate_nothing_and_real_clips_are_read_once(tmp_path: Path) -> None:
    model, data = Model(), Clips()
    callback = FVDGen(Random3D(), frames=3, samples=2, every_n_epochs=2)
    trainer(tmp_path, callback, epochs=5).fit(model, datamodule=data)
    assert len(model.calls) == 2 and data.reads == 1


def test_processes_share_samples_and_labels_by_index() -> None:
    callback = FVDGen(Random3D(), frames=3, samples=7, batch_size=2)
    drawn = {}
    for rank in range(3):
        model = Model(classes=4)
        process = cast(Trainer, SimpleNamespace(global_rank=rank, world_size=3))
        assert len(torch.cat(list(callback._fake(process, model)))) == len(range(rank, 7, 3))
        for seeds, label in model.calls:
            assert label is not None
            drawn.update(zip(seeds, label.tolist(), strict=True))
    assert drawn == {i: i % 4 for i in range(7)}


class Averaging(Callback):
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        cast(Model, pl_module).averaged = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        cast(Model, pl_module).averaged = False


@pytest.mark.parametrize("first", [True, False])
def test_averaged_weights_generate_in_any_order_of_callbacks(tmp_path: Path, first: bool) -> None:
    model = Model()
    model.averaged = False
    gen = FVDGen(Random3D(), frames=3, samples=2)
    callbacks = [Averaging(), gen] if first else [gen, Averaging()]
    trainer(tmp_path, *callbacks).validate(model, datamodule=Clips())
    assert model.calls


def test_without_a_data_module_generation_asks_for_one(tmp_path: Path) -> None:
    run = trainer(tmp_path, FVDGen(Random3D()))
    with pytest.raises(ValueError, match="takes real clips from a VideoDataModule"):
        run.validate(Model(), dataloaders=Clips().val_dataloader())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_callbacks_are_built_from_yaml(tmp_path: Path) -> None:
    text = """
callbacks:
- class_path: ardiffusion.training.callbacks.fvd.FVDRec
  init_args: {extractor: {class_path: I3D, init_args: {path: some.pt}}}
- class_path: ardiffusion.training.callbacks.fvd.FVDGen
  init_args:
    extractor: {class_path: Random3D, init_args: {width: 4}}
    steps: 25
    split: train
"""
    (tmp_path / "callbacks.yaml").write_text(text)
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--callbacks", type=list[Callback])
    config = parser.parse_args(["--config", str(tmp_path / "callbacks.yaml")])
    rec, gen = parser.instantiate_classes(config)["callbacks"]
    assert rec.distance.extractor.path == "some.pt"
    assert gen.distance.extractor.width == 24 and gen.steps == 25
    assert gen.split == "train" and gen.samples == 256
