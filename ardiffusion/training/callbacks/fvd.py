"""Callbacks that measure Fréchet video distances: of reconstructions and of generated videos."""

from collections.abc import Iterator, Mapping
from typing import Literal, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from ardiffusion.metrics.features import VideoFeatures
from ardiffusion.metrics.fvd import FrechetVideoDistance
from ardiffusion.metrics.image import FramePSNR, FrameSSIM
from ardiffusion.training.callbacks.sampling import VideoGenerator, sample_labels, sample_seeds

ENOUGH = 256


class FVDRec(Callback):
    """Measures how well the AR-VAE reconstructs the clips of validation and test.

    Logs `psnr`, `ssim` and `fvd_rec`, or `frechet_<name>_rec` for feature networks other than
    I3D. Reads the outputs {"real", "fake"} of the validation and test step.

    Args:
        extractor: Feature network; I3D gives FVD, Random3D needs no download.
    """

    def __init__(self, extractor: VideoFeatures) -> None:
        self.distance = FrechetVideoDistance(extractor)
        self.frames = {"psnr": FramePSNR(), "ssim": FrameSSIM()}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        _load(self.distance, trainer)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for metric in (self.distance, *self.frames.values()):
            metric.to(pl_module.device).reset()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking:
            assert isinstance(outputs, Mapping), "the step returns no videos"
            for metric in (self.distance, *self.frames.values()):
                metric.update(real=outputs["real"], fake=outputs["fake"])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            scores = {name: metric.compute().float() for name, metric in self.frames.items()}
            pl_module.log_dict(scores, sync_dist=True)
            _log_distance(self.distance, suffix="rec", module=pl_module)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end


class FVDGen(Callback):
    """Measures how far videos that stage 2 generates are from real ones, at validation and test.

    Logs `fvd_gen`, or `frechet_<name>_gen` for feature networks other than I3D. Sample i depends
    on `seed` and i alone, whatever the batch size and the number of processes. Of a module with
    classes it takes them in turn. Papers compare 2048 videos with the training split (UCF-101:
    training and test); distances of different `samples`, `frames` or `split` do not compare.

    Args:
        extractor: Feature network; I3D gives FVD, Random3D needs no download.
        steps: Denoising steps per frame.
        difference: Steps between neighbouring frames.
        guidance: Classifier-free guidance scale; 1 is off.
        frames: Frames per video, real and generated.
        samples: How many videos are generated, and how many real clips are read at most.
        batch_size: Videos that a process generates at once.
        every_n_epochs: While training, measure after every so many epochs only.
        seed: Seed of the samples.
        split: Where the real clips come from.
    """

    def __init__(
        self,
        extractor: VideoFeatures,
        steps: int = 50,
        difference: int = 5,
        guidance: float = 1.0,
        frames: int = 16,
        samples: int = ENOUGH,
        batch_size: int = 16,
        every_n_epochs: int = 1,
        seed: int = 0,
        split: Literal["train", "val", "test"] = "val",
    ) -> None:
        self.distance = FrechetVideoDistance(extractor)
        self.steps, self.difference, self.guidance = steps, difference, guidance
        self.frames = frames
        self.samples = samples
        self.batch_size = batch_size
        self.every_n_epochs = every_n_epochs
        self.seed = seed
        self.split = split

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        _load(self.distance, trainer)
        self.distance.reset()

    # Averaged weights are in place between the start and the end of the epoch, so at the first
    # batch they are there whatever the order of the callbacks.
    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx == 0 and dataloader_idx == 0 and is_due(trainer, self.every_n_epochs):
            self.distance.to(pl_module.device)
            self.distance.reset_fake()
            # The real clips stay the same, so they are read once.
            if int(self.distance.real_count) == 0:
                for video in self._real(trainer):
                    self.distance.update(real=video.to(pl_module.device))
            for video in self._fake(trainer, cast(VideoGenerator, pl_module)):
                self.distance.update(fake=video.to(pl_module.device))
            _log_distance(self.distance, suffix="gen", module=pl_module)

    on_test_batch_start = on_validation_batch_start

    def _real(self, trainer: Trainer) -> Iterator[Tensor]:
        clips = getattr(getattr(trainer, "datamodule", None), "clips", None)
        if clips is None:
            raise ValueError("FVDGen takes real clips from a VideoDataModule; train with one.")
        missing = len(self._mine(trainer))
        for batch in clips(self.split, frames=self.frames):
            yield batch["video"][:missing]
            missing -= len(batch["video"])
            if missing <= 0:
                return

    def _fake(self, trainer: Trainer, module: VideoGenerator) -> Iterator[Tensor]:
        mine = self._mine(trainer)
        sampler = module.sampler(
            steps=self.steps, difference=self.difference, guidance=self.guidance
        )
        for start in range(0, len(mine), self.batch_size):
            indices = mine[start : start + self.batch_size]
            yield module.generate(
                sampler,
                seeds=sample_seeds(self.seed, indices),
                frames=self.frames,
                label=sample_labels(module, indices),
            )

    def _mine(self, trainer: Trainer) -> range:
        return range(trainer.global_rank, self.samples, trainer.world_size)


def is_due(trainer: Trainer, every_n_epochs: int) -> bool:
    """Whether a callback of every so many epochs has its turn, which sanity checks never have."""
    if trainer.sanity_checking:
        return False
    training = trainer.state.fn is TrainerFn.FITTING
    return not training or (trainer.current_epoch + 1) % every_n_epochs == 0


def _load(distance: FrechetVideoDistance, trainer: Trainer) -> None:
    # At the start, because nobody wants to hear of a missing file after an epoch of training.
    if not trainer.predicting:
        cast(VideoFeatures, distance.extractor).load()


def _log_distance(distance: FrechetVideoDistance, suffix: str, module: LightningModule) -> None:
    name, (real, fake) = f"{distance.name}_{suffix}", distance.counts()
    if min(real, fake) < 2:
        rank_zero_warn(
            f"{name} needs two videos or more and is left out: {real} real, {fake} made."
        )
        return
    if min(real, fake) < ENOUGH:
        rank_zero_warn(
            f"{name} compares {real} real with {fake} made videos; below {ENOUGH} it is biased "
            f"upwards, and comparable only at equal numbers."
        )
    score = distance.compute().float()
    module.log(name, score, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
