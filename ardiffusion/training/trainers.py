"""Trainers whose `predict` takes the options of each stage, so that the CLI offers them.

Sampling settings are options of predict and nothing else: they are never part of a checkpoint.
"""

from typing import Any, Literal

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_info
from safetensors import SafetensorError
from torch.utils.data import DataLoader

from ardiffusion.diffusion.noise import LAST_SEED
from ardiffusion.diffusion.plans import Plan
from ardiffusion.diffusion.solver import Solver
from ardiffusion.nn.fingerprint import fingerprint
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.training.arvae import ARVAEModule
from ardiffusion.training.callbacks.latents import LatentWriter
from ardiffusion.training.data import VideoDataModule
from ardiffusion.training.diffusion import DiffusionModule
from ardiffusion.training.generation import (
    Generation,
    SampleFolder,
    make_requests,
    plan_settings,
)
from ardiffusion.training.load import load_generator, load_preset

PUBLISHED_FRAMES = 16  # beyond them the published scripts sample without guidance


class EncodingTrainer(Trainer):
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
            output: Folder of the latent cache; a run that was cut short goes on where it was.
        """
        if not (ckpt_path or self.ckpt_path or model.start):
            raise ValueError("Nothing to encode with: give --ckpt_path or --model.start.")
        callbacks: list[Any] = self.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        callbacks.append(LatentWriter(output))
        try:
            super().predict(
                model, datamodule=datamodule, ckpt_path=ckpt_path, return_predictions=False
            )
        except SafetensorError as error:
            raise OSError(
                f"Cannot write to {output} ({error}): free some space "
                "or choose another --output; the same command goes on where this one stopped."
            ) from error


class SamplingTrainer(Trainer):
    """Trainer of stage 2; its `predict` writes generated videos."""

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride] its own options
        self,
        model: DiffusionModule | None = None,
        ckpt_path: str | None = None,
        arvae: str | None = None,
        dataset: Literal["sky", "taichi", "ucf101", "ffs"] = "sky",
        samples: int = 4,
        frames: int = 128,
        steps: int = 50,
        difference: int = 5,
        guidance: float | None = None,
        solver: Solver | None = None,
        plan: Plan | None = None,
        labels: list[str] | str | None = None,
        seed: int = 0,
        batch_size: int = 4,
        fps: float = 25,
        compile: bool = False,
        output: str = "samples",
    ) -> None:
        """Generate videos.

        Args:
            model: A trained model, instead of `ckpt_path`.
            ckpt_path: Checkpoint of stage 2, or a file, folder or hf://user/repo of weights.
                Without one, the published weights of `dataset` are taken from the Hub.
            arvae: File, folder or hf://user/repo of the AR-VAE, where there is none in `ckpt_path`
                or another one is wanted.
            dataset: Whose published weights to use where there is no `ckpt_path`. If published
                weights are given there, ucf101 gives them the names of its classes.
            samples: Number of videos.
            frames: Frames per video.
            steps: Denoising steps per frame.
            difference: Steps between neighbouring frames: 0 denoises all frames together,
                `steps` one after the other. Not used with --plan.
            guidance: Classifier-free guidance scale; 1 is off. By default 2 for published weights
                and up to 16 frames, as they were published, else 1.
            solver: How one step is taken: by default DDIM, for published weights PublishedDDIM.
            plan: Which frame takes which step when: by default the AD schedule with `difference`;
                FIFO for long videos from a network that sees all frames of its window.
            labels: Class names, taken in turn, as [dawn,night]; all classes if not given.
            seed: Seed, 0 to 4293; sample i depends on it and i alone.
            batch_size: Videos generated at once; changes no result beyond rounding.
            fps: Frames per second of the files.
            compile: Compile the network with torch.compile, which takes minutes and pays on GPUs
                when many videos follow.
            output: Folder for the videos; a run that was cut short goes on where it was.
        """
        check_sizes(samples=samples, frames=frames, batch_size=batch_size, fps=fps)
        if not 0 <= seed <= LAST_SEED:
            raise ValueError(f"--seed is {seed} and must lie between 0 and {LAST_SEED}.")
        if model is None:
            model = load_model(ckpt_path, arvae=arvae, dataset=dataset)
        if guidance is None:
            guidance = usual_guidance(model, frames=frames)
        sampler = model.sampler(
            steps=steps, difference=difference, guidance=guidance, solver=solver, plan=plan
        )
        if compile:
            model.dit.compile(dynamic=False)
            sampler.static = True  # one or two shapes per batch size
        settings = {
            "frames": frames,
            "steps": steps,
            **plan_settings(sampler),
            "guidance": guidance,
            "solver": type(sampler.solver).__name__,
            "fps": fps,
            "precision": self.precision,
            "model": fingerprint(model),
        }
        folder = SampleFolder(output, settings=settings)
        names = [labels] if isinstance(labels, str) else labels
        requests = make_requests(samples, seed=seed, labels=names, classes=model.classes)
        missing = folder.missing(requests)
        if not missing:
            rank_zero_info(f"All {samples} videos are in {output} already.")
            return
        batches: Any = DataLoader(missing, batch_size=batch_size, collate_fn=list)  # pyright: ignore[reportArgumentType] a list is a dataset
        if self.progress_bar_callback is not None:
            self.progress_bar_callback.disable()  # the iterations have one of their own
        generation = Generation(model, sampler=sampler, frames=frames, folder=folder, fps=fps)
        super().predict(generation, dataloaders=batches, return_predictions=False)
        rank_zero_info(f"{folder.log} lists all finished videos: {len(folder.lines())}.")


def check_sizes(**sizes: float) -> None:
    """Raise unless every option is more than 0."""
    for name, size in sizes.items():
        if size <= 0:
            raise ValueError(f"--{name} is {size} and must be more than 0.")


def load_model(ckpt_path: str | None, arvae: str | None, dataset: str) -> DiffusionModule:
    """Load what `predict` generates with: what is named, or the published weights."""
    if ckpt_path:
        return load_generator(ckpt_path, arvae=arvae, dataset=dataset)
    return load_preset(dataset, arvae=arvae)


def usual_guidance(model: DiffusionModule, frames: int) -> float:
    """Return the guidance scale of the published scripts for published weights, else 1."""
    published = isinstance(model.dit, PublishedDiT)
    return 2.0 if published and frames <= PUBLISHED_FRAMES else 1.0
