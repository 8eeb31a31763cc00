import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import Callback, LightningModule, Trainer
from stages import make_data
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from ardiffusion.data.video import read_frames
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.metrics.clip_features import Videos
from ardiffusion.metrics.features import Random3D
from ardiffusion.metrics.fvd import FrechetVideoDistance
from ardiffusion.metrics.i3d import I3DTorchScript
from ardiffusion.metrics.image import psnr, ssim
from ardiffusion.metrics.protocol import Clip, EveryClip, StyleGANV
from ardiffusion.metrics.score import Score
from ardiffusion.nn.fingerprint import fingerprint
from ardiffusion.training.callbacks import sides
from ardiffusion.training.callbacks.fvd import FVDGen, FVDRec
from ardiffusion.training.data import VideoDataModule

SAMPLER = Sampler(NoiseSchedule(), steps=4, difference=2)

pytestmark = pytest.mark.filterwarnings(
    "ignore:frechet_|.*(LeafSpec|litlogger|GPU|does not have many|fork)|The number of|Attr"
)


@pytest.fixture
def data(skies: Path, tmp_path: Path) -> VideoDataModule:
    return make_skies(skies, tmp_path)


def make_skies(skies: Path, folder: Path, **options: Any) -> VideoDataModule:  # noqa: ANN401
    settings = {"frames": 4, "batch_size": 4, "val_fraction": 0.3, "test_fraction": 0.2}
    return make_data(skies, **{**settings, "cache": str(folder / "cache"), **options})


def noise(seed: int, frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (1, frames, 3, 16, 16)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def every_clip(data: VideoDataModule, split: str, frames: int, stride: int = 1) -> Tensor:
    """Cut the videos of a split, in order, into clips that follow each other."""
    clips = []
    for video in data.videos[split]:
        whole = read_frames(Path(data.root, video.path))[::stride]
        clips += [whole[i : i + frames] for i in range(0, len(whole) - frames + 1, frames)]
    return torch.stack(clips)


def distance(real: Tensor, fake: Tensor) -> Tensor:
    metric = FrechetVideoDistance(Random3D(width=2))
    metric.update(real=real, fake=fake)
    return metric.compute().float()


def protocol(frames: int = 4, videos: int = 2, **options: Any) -> EveryClip:  # noqa: ANN401
    return EveryClip(frames=frames, videos=videos, extractor=Random3D(width=2), **options)


class Model(LightningModule):
    """Reconstructs by halving; generates noise that the seed decides."""

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.classes = [str(c) for c in range(classes)]
        self.calls: list[tuple[list[int], Tensor | None]] = []
        self.averaged = True

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.weight**2

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return {"real": batch["video"], "fake": batch["video"] // 2}

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self.validation_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    @property
    def generator(self) -> Any:  # noqa: ANN401
        """What is asked to generate."""
        return self

    batch_size = 16

    def sampler(self, frames: int) -> Sampler:
        return SAMPLER

    def fingerprint(self) -> str:
        return fingerprint(self)

    def labels_in_turn(self, indices: Sequence[int]) -> Tensor | None:
        return torch.tensor([i % len(self.classes) for i in indices]) if self.classes else None

    def generate(
        self, seeds: Sequence[int], frames: int, labels: Tensor | None, sampler: Sampler
    ) -> Tensor:
        assert sampler is SAMPLER and self.averaged
        self.calls.append((list(seeds), labels))
        return torch.cat([noise(seed, frames=frames) for seed in seeds])


def trainer(folder: Path, *callbacks: Callback, epochs: int = 1, **options: Any) -> Trainer:  # noqa: ANN401
    settings: dict[str, Any] = {"accelerator": "cpu", "devices": 1}
    return Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        num_sanity_val_steps=2,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{**settings, **options},
    )


def test_reconstructions_are_scored_over_all_batches_but_those_of_the_sanity_check(
    data: VideoDataModule, tmp_path: Path
) -> None:
    run = trainer(tmp_path, FVDRec(Random3D(width=2)), epochs=2)
    run.fit(Model(), datamodule=data)
    real = torch.cat([batch["video"] for batch in data.val_dataloader()])
    fake, logged = real // 2, run.callback_metrics
    assert_close(logged["frechet_random3d_rec"], distance(real, fake))
    assert_close(logged["psnr"], psnr(real, fake).mean(), rtol=1e-5, atol=0)
    scores = ssim(real.flatten(0, 1), fake.flatten(0, 1))
    assert_close(logged["ssim"], scores.mean().float(), rtol=1e-5, atol=0)


def test_reconstructions_of_the_test_split_are_scored_and_recorded(
    data: VideoDataModule, tmp_path: Path
) -> None:
    (logged,) = trainer(tmp_path, FVDRec(Random3D(width=2))).test(Model(), datamodule=data)
    real = torch.cat([batch["video"] for batch in data.test_dataloader()])
    expected = distance(real, real // 2).item()
    assert logged["frechet_random3d_rec"] == pytest.approx(expected)
    assert {"psnr", "ssim"} <= logged.keys()
    (file,) = (tmp_path / "scores").iterdir()
    score = Score.load(file)
    assert file.name == f"frechet_random3d_rec_test_{score.weights}.json"
    assert score.value == pytest.approx(expected) and score.metric == "frechet_random3d_4"
    assert (score.real, score.fake, score.split, score.resolution) == (10, 10, "test", 16)
    assert score.network == {"name": "random3d", "hash": Random3D(width=2).hash}
    assert score.protocol["fake"] == "their reconstructions" and score.data["real"] == "skies"


def test_few_videos_are_warned_of_and_one_video_is_left_out(
    data: VideoDataModule, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="frechet_random3d_rec: There are only 20 clips"):
        trainer(tmp_path, FVDRec(Random3D(width=2))).validate(Model(), datamodule=data)
    batches = DataLoader(cast(Any, [{"video": noise(0, frames=4)}]), batch_size=None)
    run = trainer(tmp_path, FVDRec(Random3D()))
    with pytest.warns(UserWarning, match="left out: 1 real, 1 made"):
        (logged,) = run.validate(Model(), dataloaders=batches)
    assert "psnr" in logged and "frechet_random3d_rec" not in logged
    run = trainer(tmp_path, FVDGen(protocol(videos=1)))
    with pytest.warns(UserWarning, match="_gen needs two videos or more"):
        run.validate(Model(), datamodule=data)
    assert "frechet_random3d_gen" not in run.callback_metrics


def test_a_missing_i3d_is_told_before_training(data: VideoDataModule, tmp_path: Path) -> None:
    missing = I3DTorchScript(path=str(tmp_path / "nowhere.pt"))
    for callback in (FVDRec(missing), FVDGen(StyleGANV(extractor=missing))):
        run = trainer(tmp_path, callback)
        with pytest.raises(FileNotFoundError, match=r"nowhere\.pt; download https"):
            run.fit(Model(), datamodule=data)
        assert run.global_step == 0


def test_clips_too_short_for_the_network_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="I3DTorchScript needs clips of 10 frames or more"):
        FVDGen(StyleGANV(frames=9))


@pytest.mark.parametrize("option", ["every_n_epochs", "batch_size"])
def test_sizes_that_would_end_a_run_at_its_first_validation_are_refused(option: str) -> None:
    options: dict[str, Any] = {option: 0}
    with pytest.raises(ValueError, match=f"{option} of FVDGen must be at least 1, got 0"):
        FVDGen(protocol(), **options)


class Late(Random3D):
    """Knows how many frames it needs when it is loaded."""

    def load(self) -> None:
        self.frames = 5


def test_clips_too_short_for_a_loaded_network_are_told_before_training(
    data: VideoDataModule, tmp_path: Path
) -> None:
    run = trainer(tmp_path, FVDGen(EveryClip(frames=4, extractor=Late())))
    with pytest.raises(ValueError, match="Late needs clips of 5 frames or more"):
        run.fit(Model(), datamodule=data)
    assert run.global_step == 0


class Collapsed(Model):
    def generate(
        self, seeds: Sequence[int], frames: int, labels: Tensor | None, sampler: Sampler
    ) -> Tensor:
        return 0 * super().generate(seeds, frames=frames, labels=labels, sampler=sampler)


def test_black_samples_do_not_end_training(data: VideoDataModule, tmp_path: Path) -> None:
    run = trainer(tmp_path, FVDGen(protocol(videos=6)), epochs=2)
    with pytest.warns(UserWarning, match="No value in samples is above 0, .*: they are black"):
        run.fit(Collapsed(), datamodule=data)
    files = sorted((tmp_path / "scores").iterdir())
    assert len(files) == 2 and run.global_step > 0
    assert all("they are black" in " ".join(Score.load(file).warnings) for file in files)


def test_nothing_of_the_callbacks_enters_a_checkpoint(
    data: VideoDataModule, tmp_path: Path
) -> None:
    model = Model()
    run = trainer(tmp_path, FVDRec(Random3D()), FVDGen(protocol(videos=4)))
    run.fit(model, datamodule=data)
    run.save_checkpoint(tmp_path / "model.ckpt")
    checkpoint = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert list(checkpoint["state_dict"]) == ["weight"] and not checkpoint["callbacks"]


@pytest.mark.parametrize("batch_size", [3, 9])
def test_generated_videos_are_compared_with_the_clips_of_the_protocol(
    data: VideoDataModule, tmp_path: Path, batch_size: int
) -> None:
    model = Model()
    callback = FVDGen(protocol(frames=5, videos=11), batch_size=batch_size, seed=3)
    run = trainer(tmp_path, callback)
    run.fit(model, datamodule=data)
    seeds = [seed for seeds, _ in model.calls for seed in seeds]
    assert seeds == [3_000_000 + i for i in range(11)]
    assert max(len(seeds) for seeds, _ in model.calls) == batch_size
    fake = torch.cat([noise(seed, frames=5) for seed in seeds])
    expected = distance(every_clip(data, "val", frames=5)[:11], fake)
    assert_close(run.callback_metrics["frechet_random3d_gen"], expected, rtol=1e-5, atol=1e-6)


def test_the_score_is_printed_and_written_with_what_it_depends_on(
    data: VideoDataModule, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model()
    run = trainer(tmp_path, FVDGen(protocol(videos=6), seed=3), epochs=2)
    run.fit(model, datamodule=data)
    lines = [line for line in capsys.readouterr().out.splitlines() if "random3d" in line]
    steps = sorted((tmp_path / "scores").iterdir())
    each = run.global_step // 2
    assert [f.name for f in steps] == [
        f"frechet_random3d_gen_step_{each * epoch:06d}.json" for epoch in (1, 2)
    ]
    score = Score.load(steps[1])
    assert lines == [Score.load(file).line() for file in steps]
    assert score.value == pytest.approx(run.callback_metrics["frechet_random3d_gen"].item())
    assert (score.split, score.stride, score.real, score.fake) == ("val", 1, 6, 6)
    assert score.seeds == {"protocol": 0, "samples": 3} and score.weights == fingerprint(model)
    assert score.protocol == protocol(videos=6).describe()
    assert (score.data["real"], score.data["steps"]) == ("skies", 4)


def test_test_generates_too_and_real_clips_come_from_the_named_splits(
    data: VideoDataModule, tmp_path: Path
) -> None:
    callback = FVDGen(protocol(videos=100), splits=("train", "test"))
    (logged,) = trainer(tmp_path, callback).test(Model(), datamodule=data)
    fake = torch.cat([noise(seed, frames=4) for seed in range(100)])
    real = torch.cat([every_clip(data, split, frames=4) for split in ("train", "test")])
    assert logged["frechet_random3d_gen"] == pytest.approx(distance(real, fake).item(), rel=1e-5)
    (file,) = (tmp_path / "scores").iterdir()
    score = Score.load(file)
    assert (score.split, score.real, score.fake) == ("train+test", len(real), 100)


def test_real_clips_have_the_frame_rate_of_the_data(skies: Path, tmp_path: Path) -> None:
    data = make_skies(skies, tmp_path, stride=2)
    callback = FVDGen(protocol(frames=3, videos=9))
    (logged,) = trainer(tmp_path, callback).validate(Model(), datamodule=data)
    fake = torch.cat([noise(seed, frames=3) for seed in range(9)])
    expected = distance(every_clip(data, "val", frames=3, stride=2)[:9], fake).item()
    assert logged["frechet_random3d_gen"] == pytest.approx(expected, rel=1e-5)
    assert Score.load(next((tmp_path / "scores").iterdir())).stride == 2


def test_a_stride_of_the_protocol_is_taken_on_both_sides(
    data: VideoDataModule, tmp_path: Path
) -> None:
    callback = FVDGen(protocol(frames=3, videos=8, stride=2))
    (logged,) = trainer(tmp_path, callback).validate(Model(), datamodule=data)
    fake = torch.cat([noise(seed, frames=5)[:, ::2] for seed in range(8)])
    videos = [read_frames(Path(data.root, video.path)) for video in data.videos["val"]]
    real = torch.stack([v[i : i + 5 : 2] for v in videos for i in range(0, 16, 6)])[:8]
    assert logged["frechet_random3d_gen"] == pytest.approx(distance(real, fake).item(), rel=1e-5)


def test_epochs_between_generate_nothing_and_real_clips_are_read_once(
    data: VideoDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, real_videos = list[Clip](), sides.real_videos

    def counted(*given: Any, **named: Any) -> Videos:  # noqa: ANN401
        videos = real_videos(*given, **named)

        def read(clip: Clip) -> Tensor:
            opened.append(clip)
            return videos.read(clip)

        return replace(videos, read=read)

    monkeypatch.setattr(sides, "real_videos", counted)
    model = Model()
    callback = FVDGen(protocol(videos=9), every_n_epochs=2)
    trainer(tmp_path, callback, epochs=5).fit(model, datamodule=data)
    assert len(model.calls) == 2 and len(opened) == 9
    trainer(tmp_path, FVDGen(protocol(videos=9))).validate(Model(), datamodule=data)
    assert len(opened) == 9


def test_samples_get_labels_in_turn(data: VideoDataModule, tmp_path: Path) -> None:
    model = Model(classes=4)
    callback = FVDGen(protocol(videos=7), batch_size=2)
    trainer(tmp_path, callback).validate(model, datamodule=data)
    drawn = {}
    for seeds, label in model.calls:
        assert label is not None
        drawn.update(zip(seeds, label.tolist(), strict=True))
    assert drawn == {i: i % 4 for i in range(7)}


class Tell(Callback):
    """Writes which samples each process made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seeds = [seed for seeds, _ in cast(Model, pl_module).calls for seed in seeds]
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(seeds))


def test_processes_share_the_samples_and_score_as_one(skies: Path, tmp_path: Path) -> None:
    scores = []
    for name, options in (("one", {}), ("two", {"devices": 2, "strategy": "ddp_fork"})):
        data = make_skies(skies, tmp_path / name)
        callbacks = FVDGen(protocol(videos=20), batch_size=3), Tell(tmp_path)
        trainer(tmp_path / name, *callbacks, **options).validate(Model(), datamodule=data)
        (file,) = (tmp_path / name / "scores").iterdir()
        scores.append(Score.load(file))
    assert scores[0] == scores[1]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert sorted(first + second) == list(range(20)) and len(second) == 8


class Averaging(Callback):
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        cast(Model, pl_module).averaged = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        cast(Model, pl_module).averaged = False


@pytest.mark.parametrize("first", [True, False])
def test_averaged_weights_generate_in_any_order_of_callbacks(
    data: VideoDataModule, tmp_path: Path, first: bool
) -> None:
    model = Model()
    model.averaged = False
    gen = FVDGen(protocol())
    callbacks = [Averaging(), gen] if first else [gen, Averaging()]
    trainer(tmp_path, *callbacks).validate(model, datamodule=data)
    assert model.calls


def test_without_a_data_module_generation_asks_for_one(tmp_path: Path) -> None:
    run = trainer(tmp_path, FVDGen(protocol()))
    batches = DataLoader(cast(Any, [{"video": noise(0, frames=4)}]), batch_size=None)
    with pytest.raises(ValueError, match="takes real clips from a VideoDataModule"):
        run.validate(Model(), dataloaders=batches)


def test_real_videos_that_are_gone_are_told_before_training(
    data: VideoDataModule, tmp_path: Path
) -> None:
    data.setup()
    model = Model()  # as where latents alone were copied
    data.main.rule = data.main.rule._replace(root=tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"compared with .*gone.*mp4, which is not there"):
        trainer(tmp_path, FVDGen(protocol())).fit(model, datamodule=data)
    assert model.calls == [] and model.global_step == 0


class Colours(nn.Module):
    """Somebody's own network."""

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power))

    def forward(self, video: Tensor) -> Tensor:
        return (video.float() ** self.power).mean(dim=(1, 3, 4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_callbacks_are_built_from_yaml(data: VideoDataModule, tmp_path: Path) -> None:
    text = f"""
callbacks:
- class_path: ardiffusion.training.callbacks.fvd.FVDRec
  init_args: {{extractor: {{class_path: I3DTorchScript, init_args: {{path: some.pt}}}}}}
- class_path: ardiffusion.training.callbacks.fvd.FVDGen
  init_args:
    protocol:
      class_path: StyleGANV
      init_args: {{videos: 64, extractor: {{class_path: Random3D, init_args: {{width: 4}}}}}}
    every_n_epochs: 25
    splits: [train, test]
- class_path: ardiffusion.training.callbacks.fvd.FVDGen
  init_args:
    protocol:
      class_path: EveryClip
      init_args:
        frames: 4
        videos: 9
        extractor:
          class_path: ardiffusion.metrics.features.OwnFeatures
          init_args: {{network: {{class_path: {__name__}.Colours, init_args: {{power: 2.0}}}}}}
"""
    (tmp_path / "callbacks.yaml").write_text(text)
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--callbacks", type=list[Callback])
    config = parser.parse_args(["--config", str(tmp_path / "callbacks.yaml")])
    rec, gen, own = parser.instantiate_classes(config)["callbacks"]
    assert rec.distance.extractor.path == "some.pt"
    assert gen.protocol.extractor.width == 24 and gen.protocol.videos == 64
    assert gen.splits == ("train", "test") and gen.every_n_epochs == 25 and own.splits == ("val",)
    (logged,) = trainer(tmp_path, own).validate(Model(), datamodule=data)
    fake = torch.cat([noise(seed, frames=4) for seed in range(9)])
    metric = FrechetVideoDistance(Colours(power=2.0))
    metric.update(real=every_clip(data, "val", frames=4)[:9], fake=fake)
    assert logged["frechet_colours_gen"] == pytest.approx(metric.compute().item(), rel=1e-4)
