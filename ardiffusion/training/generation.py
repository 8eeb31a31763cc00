"""Writing generated videos: what `ardiff-dit predict` runs, one MP4 and one JSON line a sample."""

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ardiffusion.data.writer import VideoWriter
from ardiffusion.diffusion.noise import sample_seed
from ardiffusion.diffusion.plans import AD
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.training.diffusion import DiffusionModule


class SampleFolder:
    """A folder of generated videos with one line per finished one in `samples.jsonl`.

    Args:
        path: The folder; it is made if need be.
        settings: What all samples of the folder share.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any]) -> None:
        self.path = Path(path)
        self.settings = settings
        self.log = self.path / "samples.jsonl"
        self.path.mkdir(parents=True, exist_ok=True)

    def lines(self) -> list[dict[str, Any]]:
        """Read the finished samples; a line cut short by a crash does not count."""
        found = []
        for line in self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else ():
            with suppress(ValueError):
                found.append(json.loads(line))
        return found

    def missing(self, requests: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the requested samples that are not there yet.

        Raises:
            ValueError: If the folder holds samples of other settings.
        """
        done = {line["index"]: line for line in self.lines()}
        missing = []
        for request in requests:
            line = done.get(request["index"])
            if line is None or not (self.path / line["file"]).exists():
                missing.append(request)
                continue
            wanted = self.settings | request
            other = [name for name in wanted if line.get(name) != wanted[name]]
            if other:
                raise ValueError(
                    f"{self.log} holds samples made with other settings ({other[0]} is "
                    f"{line.get(other[0])!r}, now {wanted[other[0]]!r}); choose another --output."
                )
        return missing

    def add(self, request: dict[str, Any], file: str) -> None:
        """Append a finished sample; one write, so that processes do not mix their lines.

        Raises:
            OSError: If it cannot be written, with a sentence that names the file.
        """
        line = json.dumps({"file": file} | request | self.settings) + "\n"
        try:
            with open(self.log, "ab+") as log:
                if log.tell() and os.pread(log.fileno(), 1, log.tell() - 1) != b"\n":
                    line = "\n" + line  # after one that was cut short
                log.write(line.encode())
                log.flush()
                os.fsync(log.fileno())
        except OSError as error:
            raise OSError(
                f"Cannot write {self.log} ({error.strerror}): free some space or choose another "
                "--output."
            ) from error


def plan_settings(sampler: Sampler) -> dict[str, Any]:
    """Return what `samples.jsonl` says of the plan; the AD schedule is the usual one."""
    plan = sampler.plan
    if isinstance(plan, AD):
        return {"difference": plan.difference, "plan": None}
    return {"difference": None, "plan": plan.describe()}


class Generation(LightningModule):
    """Generates videos with a trained model; its batches are lists of requests.

    Args:
        model: The trained model.
        sampler: How to sample.
        frames: Frames per video.
        folder: Where the videos go.
        fps: Frames per second of the files.
    """

    def __init__(
        self,
        model: DiffusionModule,
        sampler: Sampler,
        frames: int,
        folder: SampleFolder,
        fps: float = 25,
    ) -> None:
        super().__init__()
        self.model = model
        self.sampler = sampler
        self.frames = frames
        self.folder = folder
        self.fps = fps

    def predict_step(self, batch: list[dict[str, Any]], batch_idx: int) -> list[str]:
        """Write the requested videos, each frame as soon as it is there; return their names."""
        files = [f"{request['index']:06d}.mp4" for request in batch]
        dit: Any = self.model.dit  # any network that is a Denoiser
        steps = self.sampler.iterations(dit, frames=self.frames)
        with ExitStack() as stack:
            bar = stack.enter_context(progress_bar(enabled=self.trainer.is_global_zero))
            task = bar.add_task(f"samples {batch[0]['index']}-{batch[-1]['index']}", total=steps)
            writers = [
                stack.enter_context(VideoWriter(self.folder.path / file, fps=self.fps))
                for file in files
            ]
            for frame in self.model.stream(
                self.sampler,
                seeds=[sample_seed(request["seed"], request["index"]) for request in batch],
                frames=self.frames,
                label=self.labels(batch),
                progress=lambda: bar.advance(task),
            ):
                for writer, picture in zip(writers, frame.cpu(), strict=True):
                    writer.write(picture)
        for request, file in zip(batch, files, strict=True):
            self.folder.add(request, file=file)
        return files

    def labels(self, batch: Sequence[dict[str, Any]]) -> Tensor | None:
        """Return the class indices of a batch, shape (B,); None for a model without classes."""
        if not self.model.dit.classes:
            return None
        indices = [self.model.classes.index(request["label"]) for request in batch]
        return torch.tensor(indices, device=self.device)


def progress_bar(enabled: bool) -> Progress:
    """Return a progress bar over iterations."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("iterations"),
        TimeRemainingColumn(),
        disable=not enabled,
    )


def make_requests(
    samples: int, seed: int, labels: Sequence[str] | None, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """List what to generate: index, seed and class name of each sample.

    Args:
        samples: Number of videos.
        seed: Seed of the run.
        labels: Class names, taken in turn; all classes in turn when not given.
        classes: Class names that the model knows; empty for a model without classes.

    Raises:
        ValueError: If a label is not among the classes.
    """
    for name in labels or []:
        if name not in classes:
            known = f"knows {', '.join(classes)}" if classes else "has no classes"
            raise ValueError(f"The model has no class {name!r}: it {known}; correct --labels.")
    turns = list(labels or classes) or [None]
    return [{"index": i, "seed": seed, "label": turns[i % len(turns)]} for i in range(samples)]
