"""Writing generated videos: what `ardiff-dit predict` runs, one MP4 and one JSON line a sample."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import cycle, groupby
from typing import Any

import torch
import yaml
from lightning import LightningModule
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ardiffusion.data.prefixes import Prefix
from ardiffusion.data.samples import SampleFolder
from ardiffusion.data.writer import VideoWriter
from ardiffusion.diffusion.noise import sample_seed
from ardiffusion.diffusion.plans import AD
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.files import has_type
from ardiffusion.generator import Generator
from ardiffusion.nn.autoencoder import together
from ardiffusion.weights.description import describe


class PredictModule(LightningModule):
    """Writes videos that a generator makes; its batches are lists of requests.

    Videos begin with the prefixes in turn; with none where there are none.
    """

    def __init__(
        self,
        generator: Generator,
        sampler: Sampler,
        frames: int,
        folder: SampleFolder,
        fps: float = 25,
        prefixes: Sequence[Prefix] = (),
    ) -> None:
        super().__init__()
        self.generator, self.sampler, self.frames = generator, sampler, frames
        self.folder, self.fps, self.prefixes = folder, fps, prefixes

    def predict_step(self, batch: list[dict[str, Any]], batch_idx: int) -> None:
        """Write the requested videos, those that begin with equally many frames together."""
        for given, alike in groupby(sorted(batch, key=given_frames), key=given_frames):
            self.write_videos([*alike], given=given)

    def write_videos(self, batch: list[dict[str, Any]], given: int) -> None:
        files = [f"{request['index']:06d}.mp4" for request in batch]
        turns, count = self.prefixes, len(self.prefixes)
        prefix = torch.stack([turns[r["index"] % count].video for r in batch]) if given else None
        steps = self.sampler.iterations(self.generator.dit, frames=self.frames, given_frames=given)
        self.folder.path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            bar = stack.enter_context(progress_bar(enabled=self.trainer.is_global_zero))
            task = bar.add_task(f"samples {batch[0]['index']}-{batch[-1]['index']}", total=steps)
            writers = [
                stack.enter_context(VideoWriter(self.folder.path / file, fps=self.fps))
                for file in files
            ]
            for frame in self.generator.stream(
                [sample_seed(request["seed"], request["index"]) for request in batch],
                frames=self.frames,
                labels=[request["label"] for request in batch],
                prefix=prefix,
                sampler=self.sampler,
                progress=lambda _: bar.advance(task),
                together=together(self.generator.device),
            ):
                for writer, picture in zip(writers, frame.cpu(), strict=True):
                    writer.write(picture)
        for request, file in zip(batch, files, strict=True):
            self.folder.add(request, file=file)


def given_frames(request: Mapping[str, Any]) -> int:
    return request["prefix"]["frames"] if request["prefix"] else 0


def progress_bar(enabled: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("iterations"),
        TimeRemainingColumn(),
        disable=not enabled,
    )


def sampling_settings(generator: Generator, sampler: Sampler, frames: int) -> dict[str, Any]:
    """Return what `samples.jsonl` says of how a run samples; the AD schedule is the usual plan."""
    plan = sampler.plan
    usual = isinstance(plan, AD)
    return {
        "frames": frames,
        "steps": sampler.steps,
        "difference": plan.difference if isinstance(plan, AD) else None,
        "plan": None if usual else plan.describe(),
        "sink": sampler.sink or None,
        "guidance": sampler.guidance,
        "solver": type(sampler.solver).__name__,
        "eta": getattr(sampler.solver, "eta", None) or None,
        "context_timestep": sampler.solver.context_timestep or None,
        "target": type(sampler.target).__name__,
        "schedule": describe(sampler.schedule)["arguments"],
        "model": generator.fingerprint(),
    }


def read_labels(given: str | Sequence[str | int], classes: Sequence[str]) -> list[str]:
    """Return the class names that `--labels` names: one, or several as [dawn,night].

    A name is taken as it is written: YAML would read classes called 1, yes, null or 1e3 as
    something else.
    """
    if isinstance(given, str):
        listed = given.strip()
        inner = listed[1:-1] if listed.startswith("[") and listed.endswith("]") else listed
        names = [given] if given in classes else split_list(inner)
    else:
        names = [str(name) for name in given]
        bare = f"[{','.join(names)}]"  # a class of this name, which YAML took for a list
        names = [bare] if bare in classes else names
    if not names:
        raise ValueError("--labels names no class: name one or more, or leave it out for all.")
    for name in names:
        if name not in classes:
            known = f"knows {', '.join(classes)}" if classes else "has no classes"
            raise ValueError(f"The model has no class {name!r}: it {known}; correct --labels.")
    return names


def split_list(text: str) -> list[str]:
    """Split a list as YAML has it, each item a text; what is none there is cut at its commas."""
    with suppress(yaml.YAMLError):
        found = yaml.load(f"[{text}]", Loader=yaml.BaseLoader)
        if has_type(found, list[str]):
            return found
    return [part.strip() for part in text.split(",") if part.strip()]


def make_requests(
    samples: int,
    seed: int,
    labels: Sequence[str] = (),
    classes: Sequence[str] = (),
    prefixes: Sequence[Prefix] = (),
) -> list[dict[str, Any]]:
    """List what to generate: index, seed, class and prefix of each sample.

    Prefixes are taken in turn, and so are `labels`, if any; else a sample is of the class of its
    prefix, or takes its turn of all classes where that has none.
    """
    turns = zip(range(samples), cycle(labels or classes or [None]), cycle(prefixes or [None]))
    return [
        {
            "index": i,
            "seed": seed,
            "label": turn if labels or not prefix else prefix.label or turn,
            "prefix": prefix and prefix.description,
        }
        for i, turn, prefix in turns
    ]
