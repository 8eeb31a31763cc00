import io
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from einops import rearrange
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset

from ardiffusion.data.video import read_frames
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.training.callbacks.videos import VideoLogger, encode_gif

SAMPLER = Sampler(NoiseSchedule(), steps=4, difference=2)

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches")


def flat(seed: int, count: int, frames: int = 5) -> Tensor:
    """Videos of one colour per frame, which a GIF keeps exactly."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randint(0, 256, (count, frames, 3, 1, 1), generator=generator)
    return colours.repeat(1, 1, 1, 6, 8).to(torch.uint8)


class AutoEncoder(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.weight**2

    def validation_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor] | None:
        self.log("scalar", 1.0)
        return {"real": batch, "fake": 255 - batch}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Generator(AutoEncoder):
    classes: tuple[str, ...] = ("a", "b")
    label: Tensor | None = None

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        return None

    @property
    def generator(self) -> Any:  # noqa: ANN401
        """What is asked to generate."""
        return self

    batch_size = 2

    def labels_in_turn(self, indices: Sequence[int]) -> Tensor:
        return torch.tensor([i % len(self.classes) for i in indices])

    def generate(self, seeds: Sequence[int], frames: int, labels: Tensor) -> Tensor:
        self.label = labels if self.label is None else torch.cat([self.label, labels])
        return torch.cat([flat(seed, 1, frames=frames) for seed in seeds])


def fit(
    module: LightningModule,
    callback: VideoLogger,
    folder: Path,
    logger: Logger | bool,
    epochs: int = 1,
    fast_dev_run: bool = False,
) -> None:
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        fast_dev_run=fast_dev_run,
        callbacks=[callback],
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    train = DataLoader(cast(Dataset[Tensor], flat(0, 3)))
    trainer.fit(module, train, DataLoader(cast(Dataset[Tensor], flat(1, 4)), batch_size=2))


def events(folder: Path, tag: str) -> tuple[list[int], Tensor]:
    """The steps of a tag's GIFs and the frames of the last one, (F, 3, H, W)."""
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    images = accumulator.Images(tag)
    with Image.open(io.BytesIO(images[-1].encoded_image_string)) as gif:
        assert (gif.format, gif.size) == ("GIF", (images[-1].width, images[-1].height))
        frames = [pixels(frame) for frame in ImageSequence.Iterator(gif)]
    return [image.step for image in images], torch.stack(frames)


def pixels(picture: Image.Image) -> Tensor:
    flat = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return rearrange(flat, "(h w c) -> c h w", h=picture.height, c=3)


def test_real_and_reconstructed_clips_of_the_first_batch_are_side_by_side(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit(AutoEncoder(), VideoLogger(clips=3), folder=tmp_path, logger=logger, epochs=2)
    steps, frames = events(tmp_path, "reconstructions")
    scalars = EventAccumulator(str(tmp_path)).Reload().Scalars("scalar")
    assert len(steps) == 2 and steps == [scalar.step for scalar in scalars]
    real = flat(1, 2)
    expected = rearrange(torch.stack([real, 255 - real]), "s b f c h w -> f c (b h) (s w)")
    assert_close(frames, expected)


def test_samples_are_below_each_other_with_their_classes_in_turn(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="")
    module = Generator()
    callback = VideoLogger(clips=3, frames=4, every_n_epochs=2, seed=1)
    fit(module, callback, folder=tmp_path, logger=logger, epochs=3)
    steps, frames = events(tmp_path, "samples")
    assert len(steps) == 1
    videos = torch.cat([flat(1_000_000 + i, 1, frames=4) for i in range(3)])
    assert_close(frames, rearrange(videos, "b f c h w -> f c (b h) w"))
    assert module.label is not None and module.label.tolist() == [0, 1, 0]


@pytest.mark.parametrize("logged", [False, True])
def test_where_no_logger_takes_videos_they_are_files_in_the_folder(
    tmp_path: Path, logged: bool
) -> None:
    logger = CSVLogger(tmp_path, name="", version="") if logged else False
    fit(Generator(), VideoLogger(clips=2, frames=4), folder=tmp_path, logger=logger, epochs=2)
    files = sorted((tmp_path / "media").iterdir())
    assert [file.name for file in files] == ["samples_00000002.mp4", "samples_00000005.mp4"]
    assert read_frames(files[0]).shape == (4, 3, 12, 8)


def test_a_trial_run_leaves_nothing(tmp_path: Path) -> None:
    fit(module := Generator(), VideoLogger(), tmp_path, logger=False, fast_dev_run=True)
    assert module.label is None and not list(tmp_path.iterdir())


def test_wandb_gets_videos_as_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B is not installed here; Lightning's logger hands `wandb.Video` on to `log_metrics`."""
    kind = SimpleNamespace(Video=lambda file, format: (read_frames(file).shape, format))
    monkeypatch.setitem(sys.modules, "wandb", kind)
    told: list[Any] = []
    monkeypatch.setattr(
        WandbLogger, "log_metrics", lambda _, metrics, step: told.append((metrics, step))
    )
    logger = WandbLogger.__new__(WandbLogger)
    trainer: Any = SimpleNamespace(
        loggers=[logger],
        log_dir=str(tmp_path),
        is_global_zero=True,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=7)),
    )
    VideoLogger()._show(trainer, "samples", flat(3, 2))
    assert told == [({"samples": [((5, 3, 12, 8), "mp4")]}, 7)]


def test_a_wandb_run_without_network_keeps_its_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    fit(Generator(), VideoLogger(clips=2, frames=4), folder=tmp_path, logger=logger, epochs=2)
    logger.experiment.finish()
    kept = sorted(tmp_path.glob("wandb/offline-run-*/files/media/videos/samples_*.mp4"))
    own = sorted((tmp_path / "media").iterdir())
    assert len(own) == 2 and {x.read_bytes() for x in kept} == {x.read_bytes() for x in own}


@pytest.mark.parametrize(("fps", "duration"), [(8, 125), (25, 40)])
def test_gif_plays_at_the_given_rate_without_end(fps: int, duration: int) -> None:
    with Image.open(io.BytesIO(encode_gif(flat(2, 1)[0], fps=fps))) as gif:
        assert abs(gif.info["duration"] - duration) < 10 and gif.info["loop"] == 0


@pytest.mark.parametrize("option", ["clips", "frames", "fps", "every_n_epochs"])
def test_sizes_that_would_end_a_run_at_its_first_validation_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} of VideoLogger must be at least 1, got 0"):
        VideoLogger(**{option: 0})
