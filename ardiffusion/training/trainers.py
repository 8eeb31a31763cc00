"""Trainers whose `predict` takes the options of each stage, so that the CLI offers them.

Sampling settings are options of predict; what is not given is the generator's own.
"""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader

from ardiffusion.data.prefixes import Prefix, read_prefixes
from ardiffusion.data.samples import SampleFolder, read_samples
from ardiffusion.diffusion.plans import Plan
from ardiffusion.diffusion.solver import Solver
from ardiffusion.files import only_writer
from ardiffusion.generator import Generator
from ardiffusion.published.presets import preset
from ardiffusion.training.arvae import ARVAEModule
from ardiffusion.training.callbacks.latents import LatentWriter
from ardiffusion.training.checks import say_of_compile
from ardiffusion.training.data import VideoDataModule
from ardiffusion.training.options import (
    FPS,
    Label,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Seed,
)
from ardiffusion.training.predict import (
    PredictModule,
    make_requests,
    read_labels,
    sampling_settings,
)
from ardiffusion.training.stage_trainer import StageTrainer


class EncodingTrainer(StageTrainer):
    """Trainer of stage 1; its `predict` writes a latent cache."""

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride] its own options
        self,
        model: ARVAEModule,
        datamodule: VideoDataModule,
        ckpt_path: str | None = None,
        output: str = "latents",
    ) -> None:
        """Encode every clip of the data to a latent cache for stage 2.

        Args:
            model: The trained AR-VAE.
            datamodule: The clips.
            ckpt_path: Checkpoint of stage 1.
            output: Folder of the latent cache, or an address in object storage, such as
                s3://bucket/folder or hf://datasets/user/repo/folder; a run that was cut short
                goes on where it was.
        """
        if not output:
            raise ValueError("--output is empty; name a folder for the latents.")
        if not (ckpt_path or self.ckpt_path or model.start):
            raise ValueError("Nothing to encode with: give --ckpt_path or --model.start.")
        callbacks: list[Any] = self.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        callbacks.append(LatentWriter(output))
        super().predict(
            model, datamodule=datamodule, ckpt_path=ckpt_path, return_predictions=False
        )


class SamplingTrainer(StageTrainer):
    """Trainer of stage 2; its `predict` writes generated videos."""

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride] its own options
        self,
        model: Generator | None = None,
        ckpt_path: str | None = None,
        arvae: str | None = None,
        dataset: Literal["sky", "taichi", "ucf101", "ffs"] = "sky",
        samples: PositiveInt = 4,
        frames: PositiveInt = 128,
        steps: PositiveInt | None = None,
        difference: NonNegativeInt | None = None,
        guidance: NonNegativeFloat | None = None,
        solver: Solver | None = None,
        plan: Plan | None = None,
        sink: NonNegativeInt = 0,
        labels: str | list[Label] = "",
        prefix: str | None = None,
        prefix_frames: PositiveInt | None = None,
        seed: Seed = 0,
        batch_size: PositiveInt = 4,
        fps: FPS = 25,
        compile: bool = False,
        output: str = "samples",
    ) -> None:
        """Generate videos.

        Args:
            model: A generator, instead of `ckpt_path`.
            ckpt_path: Checkpoint of stage 2, or a file, folder or hf://user/repo of weights.
                Without one, the published weights of `dataset` are taken from the Hub.
            arvae: File, folder or hf://user/repo of the AR-VAE, where there is none in `ckpt_path`
                or another one is wanted.
            dataset: Whose published weights to use where there is no `ckpt_path`. If published
                weights are given there, ucf101 gives them the names of its classes.
            samples: Number of videos.
            frames: Frames per video, those of a prefix included.
            steps: Denoising steps per frame; the generator's own number if not given, mostly 50.
            difference: Steps between neighbouring frames: 0 denoises all frames together,
                `steps` one after the other; mostly 5 if not given. Not used with --plan.
            guidance: Classifier-free guidance scale; 1 is off. By default the generator's, mostly
                1; for published weights 2 up to 16 frames, as they were published.
            solver: How one step is taken: by default mostly DDIM, for published weights
                PublishedDDIM.
            plan: Which frame takes which step when: by default the AD schedule with `difference`;
                FIFO for long videos from a network that sees all frames of its window.
            sink: How many of a video's first frames all later ones look back to as well, however
                long it gets; they count among the frames of the network's window.
            labels: Class names, taken in turn, as [dawn,night]. If not given, the class of the
                prefix, which its folder's name or samples.jsonl beside it tells, else all.
            prefix: What the videos begin with: a picture, a video, of which they are a
                continuation, or a folder of either, perhaps in class folders, taken in turn.
            prefix_frames: How many of the prefix's last frames to begin with; by default as many
                as fill the window of the network.
            seed: Seed, 0 to 4293; sample i depends on it and i alone.
            batch_size: Videos generated at once; changes no result beyond rounding.
            fps: Frames per second of the files.
            compile: Compile the network with torch.compile, which takes minutes and pays on GPUs
                when many videos follow. A CPU gets slower by it.
            output: Folder for the videos; a run that was cut short goes on where it was.
        """
        if not output:
            raise ValueError("--output is empty; name a folder for the videos.")
        if model is None:
            model = load_generator(ckpt_path, arvae=arvae, dataset=dataset)
        sampler = model.sampler(
            steps=steps,
            difference=difference,
            guidance=guidance,
            solver=solver,
            plan=plan,
            frames=frames,
            sink=sink,
        )
        classes = model.classes if model.conditional else []
        names = read_labels(labels, classes=classes) if labels != "" else []
        given = read_given(
            model, prefix, count=prefix_frames, frames=frames, classes=classes, most=samples
        )
        if classes and not names:
            say_of_unknown_class(given)
        if compile:
            say_of_compile(self)
            model.dit.compile(dynamic=False)
            sampler.static = True  # one or two shapes per batch size
        settings = sampling_settings(model, sampler, frames=frames)
        settings |= {"fps": fps, "precision": self.precision}
        requests = make_requests(samples, seed, labels=names, classes=classes, prefixes=given)
        folder = SampleFolder(output, settings=settings)
        with only_writer(output) if self.is_global_zero else nullcontext():
            module = PredictModule(
                model,
                sampler=sampler,
                frames=frames,
                folder=folder,
                fps=fps,
                prefixes=given,
            )
            self.write(module, requests, batch_size=batch_size)

    def write(
        self, module: PredictModule, requests: list[dict[str, Any]], batch_size: int
    ) -> None:
        """Generate the requested videos that are not there yet."""
        folder, missing = module.folder, module.folder.missing(requests)
        if not missing:
            rank_zero_info(f"All {len(requests)} videos are in {folder.path} already.")
            return
        batches: Any = DataLoader(missing, batch_size=batch_size, collate_fn=list)  # pyright: ignore[reportArgumentType] a list is a dataset
        if self.progress_bar_callback is not None:
            self.progress_bar_callback.disable()  # the iterations have one of their own
        super().predict(module, dataloaders=batches, return_predictions=False)
        done = len(read_samples(folder.path))
        rank_zero_info(f"{folder.log} lists all finished videos: {done}.")


def load_generator(ckpt_path: str | None, arvae: str | None, dataset: str) -> Generator:
    """Load what `predict` generates with: what is named, or the published weights."""
    if ckpt_path is not None:
        if not ckpt_path.startswith("hf://") and not os.path.exists(ckpt_path):
            raise FileNotFoundError(
                f"There is no file or folder {ckpt_path!r}; check --ckpt_path. Sources on the Hub "
                "begin with hf://."
            )
        return Generator.from_pretrained(ckpt_path, arvae=arvae, classes=preset(dataset).classes)
    return Generator.published(dataset, arvae=arvae)


def read_given(
    model: Generator,
    prefix: str | None,
    count: int | None,
    frames: int,
    classes: Sequence[str],
    most: int,
) -> Sequence[Prefix]:
    """Read the frames that videos begin with, which must leave something to generate."""
    if prefix is None:
        if count is not None:
            raise ValueError("--prefix_frames needs a --prefix that they are taken of.")
        return []
    found = read_prefixes(
        prefix,
        resolution=model.arvae.resolution,
        frames=count or int(model.dit.window),
        classes=classes,
        most=most,
    )
    longest = max(len(one.video) for one in found)
    if longest >= frames:
        raise ValueError(
            f"The prefix has {longest} frames, and --frames {frames} counts them too: ask for "
            "more --frames or fewer --prefix_frames."
        )
    return found


def say_of_unknown_class(prefixes: Sequence[Prefix]) -> None:
    """Warn that a prefix of no known class is continued as one of any."""
    unknown = [prefix.description["file"] for prefix in prefixes if prefix.label is None]
    if unknown:
        rank_zero_warn(
            f"The class of {unknown[0]} is not known, so that its samples take the classes in "
            "turn: name its own by --labels."
        )
