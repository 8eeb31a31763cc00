"""Callbacks that measure Fréchet video distances: of reconstructions and of generated videos."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn

from ardiffusion.data.index import index_file
from ardiffusion.generator import Generator
from ardiffusion.metrics.evaluation import evaluate, warnings_about
from ardiffusion.metrics.features import VideoFeatures
from ardiffusion.metrics.fvd import FrechetVideoDistance
from ardiffusion.metrics.image import FrameMean, psnr, ssim
from ardiffusion.metrics.protocol import EveryClip, Protocol
from ardiffusion.metrics.score import Score
from ardiffusion.nn.fingerprint import fingerprint
from ardiffusion.nn.rotary import float64_device
from ardiffusion.nn.sizes import LARGEST, check_range
from ardiffusion.training.callbacks import sides
from ardiffusion.training.data import VideoDataModule
from ardiffusion.training.memory import gathered
from ardiffusion.training.predict import sampling_settings


class FVDRec(Callback):
    """Measures how well the AR-VAE reconstructs the clips of validation and test.

    Logs `psnr`, `ssim` and `fvd_rec`, or `frechet_<name>_rec` for feature networks other than
    the two I3Ds, and writes a record of the distance into `scores` in the folder of the run. Its
    clips are those of the validation and test batches, whose step returns {"real", "fake"}, so
    that there is nothing for a protocol to choose.

    Args:
        extractor: Feature network; I3DTorchScript gives FVD, Random3D needs no download.
    """

    def __init__(self, extractor: VideoFeatures) -> None:
        self.distance = FrechetVideoDistance(extractor)
        self.frames = {"psnr": FrameMean(psnr), "ssim": FrameMean(ssim)}
        self.shape: tuple[int, ...] = ()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # At the start, because nobody wants to hear of a missing file after an epoch of training.
        if not trainer.predicting:
            self.distance.extractor.load()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for metric in (self.distance, *self.frames.values()):
            metric.to(float64_device(pl_module.device)).reset()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        *_: object,
        **__: object,
    ) -> None:
        if not trainer.sanity_checking:
            assert isinstance(outputs, Mapping), "the step returns no videos"
            self.shape = tuple(outputs["real"].shape)
            for metric in (self.distance, *self.frames.values()):
                videos = (outputs[side].to(metric.device) for side in ("real", "fake"))
                metric.update(*videos)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        scores = {name: metric.compute().float() for name, metric in self.frames.items()}
        pl_module.log_dict(scores, sync_dist=True)
        name, counts = f"{self.distance.name}_rec", self.distance.counts()
        if min(counts) < 2:
            warn_left_out(name, *counts)
        else:
            sides.report(self._score(trainer, pl_module), name, trainer=trainer, module=pl_module)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def _score(self, trainer: Trainer, module: LightningModule) -> Score:
        extractor, (real, fake) = self.distance.extractor, self.distance.counts()
        (_, frames, _, *size), data = self.shape, getattr(trainer, "datamodule", None)
        folder = Path(getattr(data, "root", "")).name
        protocol = EveryClip(frames=frames, extractor=extractor).preparation() | {
            "name": "Reconstructions",
            "covariance": "1/N",
            "real": "clips of the validation or test batches",
            "fake": "their reconstructions",
        }
        arvae = cast(nn.Module, getattr(module, "arvae", module))
        return Score(
            metric=f"{self.distance.name}_{frames}",
            value=self.distance.compute().item(),
            protocol=protocol,
            real=real,
            fake=fake,
            split="test" if trainer.testing else "val",
            stride=getattr(data, "stride", 1),
            resolution=min(size),
            network={"name": extractor.name, "hash": protocol["network_hash"]},
            weights=fingerprint(arvae),
            data={"real": folder, "fake": "reconstructions", "size": size},
            warnings=warnings_about(min(real, fake), width=len(self.distance.real) - 1),
        )


class FVDGen(Callback):
    """Measures how far videos that stage 2 generates are from real ones, at validation and test.

    Logs `fvd_gen`, or `frechet_<name>_gen` for feature networks other than the two I3Ds,
    and writes a record into `scores` in the folder of the run. The protocol says how many videos
    are generated, which real clips they are compared with, and by which network. Sample i depends
    on `seed` and i alone, whatever the batch size and the number of processes. Classes are taken
    in turn, steps and guidance are those of the generator. Features of real clips are kept beside
    the index of `data.cache`.

    Args:
        protocol: How to measure; StyleGANV is what papers do, EveryClip with Random3D needs no
            download.
        batch_size: Videos that a process generates at once; by default as many as have 512 tokens
            per frame together.
        every_n_epochs: While training, measure after every so many epochs only.
        seed: Seed of the samples.
        splits: Where the real clips come from; papers take train (UCF-101: train and test).
    """

    def __init__(
        self,
        protocol: Protocol,
        batch_size: int | None = None,
        every_n_epochs: int = 1,
        seed: int = 0,
        splits: tuple[Literal["train", "val", "test"], ...] = ("val",),
    ) -> None:
        protocol.check_frames()
        sizes = {"every_n_epochs": every_n_epochs, "batch_size": batch_size}
        check_range("{} of FVDGen", 1, LARGEST, **sizes)
        self.protocol, self.seed, self.splits = protocol, seed, splits
        self.batch_size, self.every_n_epochs = batch_size, every_n_epochs

    @property
    def name(self) -> str:
        """What the distance is logged as."""
        return self.protocol.metric.removesuffix(f"_{self.protocol.frames}") + "_gen"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not trainer.predicting:
            self.protocol.load()
            if not isinstance(getattr(trainer, "datamodule", None), VideoDataModule):
                raise ValueError("FVDGen takes real clips from a VideoDataModule; train with one.")
            sides.check_there(trainer.datamodule, self.splits, protocol=self.protocol)  # pyright: ignore[reportAttributeAccessIssue]

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
            with gathered(pl_module):  # processes generate different numbers of videos
                score = self.measure(trainer, pl_module)
            if score is not None:
                sides.report(score, self.name, trainer=trainer, module=pl_module)

    on_test_batch_start = on_validation_batch_start

    def measure(self, trainer: Trainer, module: LightningModule) -> Score | None:
        """Generate and compare; None where there are too few videos."""
        data, generator = trainer.datamodule, cast(Generator, module.generator)  # pyright: ignore[reportAttributeAccessIssue]
        sampler = generator.sampler(frames=self.protocol.span)
        real = sides.real_videos(data, self.splits, protocol=self.protocol)
        samples = sides.sampled_videos(
            generator,
            sampler=sampler,
            protocol=self.protocol,
            seed=self.seed,
            batch_size=self.batch_size or generator.batch_size,
        )
        counts = len(self.protocol.real(real.lengths)), self.protocol.videos
        if min(counts) < 2:
            warn_left_out(self.name, *counts)
            return None
        score, *_ = evaluate(
            self.protocol,
            real=real,
            fake=samples,
            split="+".join(self.splits),
            cache=index_file(data.cache).parent / "features",
            device=module.device,
        )
        settings = sampling_settings(generator, sampler, frames=self.protocol.span)
        return replace(
            score,
            stride=score.stride * data.stride,
            seeds={"protocol": self.protocol.seed, "samples": self.seed},
            weights=settings["model"],
            data=score.data | settings,
        )


def is_due(trainer: Trainer, every_n_epochs: int) -> bool:
    """Whether a callback of every so many epochs has its turn, which sanity checks never have."""
    if trainer.sanity_checking:
        return False
    training = trainer.state.fn is TrainerFn.FITTING
    return not training or (trainer.current_epoch + 1) % every_n_epochs == 0


def warn_left_out(name: str, real: int, fake: int) -> None:
    rank_zero_warn(f"{name} needs two videos or more and is left out: {real} real, {fake} made.")
