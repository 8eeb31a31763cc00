"""The supplement's experiments at the scale of a CPU: `python -m experiments.reproduce`.

Videos are drawn, auto-encoders and generators trained for equal times, videos generated, scored
and laid out on one page: everything by commands that a user could type. A run that was cut short
goes on where it was.
"""

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from ardiffusion.data.layouts import class_names, find_clips
from ardiffusion.data.splits import split_fractions
from ardiffusion.tools.gallery import write_gallery
from experiments.command import ARDIFF, command_line, run_script
from experiments.reproduction.experiments import EXPERIMENTS, Experiment, stages_of
from experiments.reproduction.models import DIFFERENCES
from experiments.reproduction.results import Results
from experiments.reproduction.runs import Recipe
from experiments.stages import Stage, StageLog

SHARE_HELD_OUT = 0.2
Name = Literal["tokenizer", "time", "stability", "difference", "timesteps", "methods"]


def reproduce(
    out: str = "reproduce",
    root: str | None = None,
    experiments: list[Name] | None = None,
    videos: int = 300,
    vae_minutes: float = 3.5,
    dit_minutes: float = 2.5,
    samples: int = 128,
    long_samples: int = 16,
    long_frames: int = 128,
    steps: int = 50,
) -> dict[str, Any]:
    """Train, generate, score and show what the supplement compares, in under an hour on a CPU.

    Args:
        out: Folder of everything; page.html in it shows the results.
        root: Folder of videos to use instead of procedural skies.
        experiments: Which experiments; all if not given.
        videos: Procedural videos to draw, a fifth of which is held out.
        vae_minutes: Training time of each auto-encoder.
        dit_minutes: Training time of each generator.
        samples: Videos of 16 frames for each score.
        long_samples: Long videos for each score.
        long_frames: Frames of long videos.
        steps: Denoising steps, 50 or more.
    """
    numbers = {"videos": videos, "samples": samples, "long_samples": long_samples}
    numbers |= {"long_frames": long_frames, "steps": steps}
    numbers |= {"vae_minutes": vae_minutes, "dit_minutes": dit_minutes}
    for name, value in numbers.items():
        if value <= 0:
            raise ValueError(f"--{name} must be above 0, got {value}.")
    if steps < max(DIFFERENCES):
        raise ValueError(
            f"--steps must be {max(DIFFERENCES)}, the largest s, or more, got {steps}."
        )
    recipe = Recipe(
        out=Path(out),
        vae_seconds=round(60 * vae_minutes),
        dit_seconds=round(60 * dit_minutes),
        samples=samples,
        long_samples=long_samples,
        long_frames=long_frames,
        steps=steps,
    )
    sizes = asdict(recipe) | {"root": root, "videos": None if root else videos}
    settings = {name: n for name, n in sizes.items() if name not in ("out", "classes")}
    log = StageLog(recipe.out, settings, kind="reproduction")
    chosen = [EXPERIMENTS[name] for name in experiments or EXPERIMENTS]
    source = Path(root) if root else draw(recipe, videos=videos, log=log)
    split(source, recipe)
    recipe = replace(recipe, classes=len(class_names(find_clips(recipe.train))))
    stages = list(stages_of(chosen, recipe))
    for number, stage in enumerate(stages, start=1):
        log.do(stage, place=f"{number} of {len(stages)}: ")
    minutes = round(sum(log.seconds.values()) / 60, 1)
    settings = log.settings | {"minutes": minutes, "machine": machine()}
    page = write_page(chosen, Results(recipe), settings=settings)
    Console(stderr=True).print(f"[bold]{page}[/] shows the results.")
    return {"page": str(page), "minutes": minutes}


def draw(recipe: Recipe, videos: int, log: StageLog) -> Path:
    """Draw procedural skies."""
    folder = recipe.out / "skies"
    log.do(Stage("drawing", command_line(ARDIFF, "videos", folder, f"--videos {videos}")))
    return folder


def split(source: Path, recipe: Recipe) -> None:
    """Link the videos to train on and those held out into folders of their own."""
    paths = [entry.path for entry in find_clips(source)]
    parts = split_fractions(paths, fractions={"val": SHARE_HELD_OUT})
    for folder, part in ((recipe.train, "train"), (recipe.held_out, "val")):
        for path in parts[part]:
            link = folder / path
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to((source / path).resolve())


def write_page(
    experiments: Sequence[Experiment], results: Results, settings: dict[str, Any]
) -> Path:
    """Lay everything out on one page and return its path."""
    page = results.recipe.out / "page.html"
    write_gallery(
        page,
        title="AR-Diffusion's experiments at the scale of a CPU",
        sections=[experiment.section(results) for experiment in experiments],
        settings=settings,
        limit=12,
    )
    return page


def machine() -> str:
    """Say what this runs on."""
    name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__}"


def main(args: list[str] | None = None) -> None:
    """Run the command line; the last line of its output is one JSON object."""
    run_script(reproduce, args)


if __name__ == "__main__":
    main()
