"""Few steps: students beside their teacher, `python -m experiments.few_steps TEACHER REAL`."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ardiffusion.diffusion.solver import DDIM, DPMSolver2M, Solver
from ardiffusion.files import atomic_write, write_json
from ardiffusion.generator import Generator
from ardiffusion.metrics.bootstrap import Bootstrap, distance_interval
from ardiffusion.metrics.frechet import feature_distance
from ardiffusion.metrics.kernel import kernel_distance
from ardiffusion.metrics.parallel import in_threads
from ardiffusion.nn.sizes import check_range
from experiments.command import run_script
from experiments.contact import contact_sheet
from experiments.demo_report import motion
from experiments.trial import CLIP, clips_of, decode, describe, device, read, sample

SHOWN = 8  # frames of a row of the picture


class Way(NamedTuple):
    """A way to make videos."""

    steps: int
    difference: int
    solver: Solver


def few_steps(
    teacher: str,
    real: str,
    students: tuple[str, ...] = (),
    clips: int = 512,
    long: int = 64,
    frames: int = 128,
    seed: int = 0,
    out: str = "few_steps",
) -> dict[str, Any]:
    """Compare students in 1 to 4 steps with their teacher; write OUT.json and OUT.png.

    The teacher takes 50 steps of DDIM, 8 of DPMSolver2M, and as few as its students. All make
    their videos of the same noise, on a GPU if there is one; seconds are those of the long ones.

    Args:
        teacher: Checkpoint, folder or file of the generator that the students started from.
        real: Folder of real videos of at least `frames` frames.
        students: Checkpoints, folders or files of students.
        clips: Generated clips of 16 frames in each way.
        long: Generated long videos in each way.
        frames: Frames of the long videos.
        seed: Seed of the noise.
        out: Path of both files, without their ends.
    """
    check_range("--{}", 2, clips=clips, long=long)
    check_range("--{}", CLIP, frames=frames)
    generators = {s: Generator.from_pretrained(s).to(device()) for s in (teacher, *students)}
    resolution = generators[teacher].arvae.resolution
    videos = [x[:frames] for x in read(Path(real), resolution) if len(x) >= frames]
    if len(videos) < 2:
        raise ValueError(f"{real} holds {len(videos)} videos of {frames} frames: name more.")
    known = clips_of(videos, count=clips), torch.stack(videos)
    told = [(describe(each), motion(each)) for each in known]
    rows, pictures = [], [known[1][0]]
    for source, generator in generators.items():
        for way in ways(generator, few=source != teacher):
            row: dict[str, Any] = {"generator": source} | way._asdict()
            row["solver"] = type(way.solver).__name__
            make = partial(sample, generator, seed=seed, options=way._asdict())
            short = decode(generator.arvae, make(clips, frames=CLIP))
            start = time.monotonic()
            latents = make(long, frames=frames)
            row["seconds"] = time.monotonic() - start
            made = short, decode(generator.arvae, latents)
            for video, (features, moves) in zip(made, told, strict=True):
                found = compare(features, video) | {"motion": motion(video) / moves}
                row[f"frames_{video.shape[1]}"] = found
            rows.append(row)
            pictures.append(made[1][0])
            Console(stderr=True).print(f"{source}: {way.steps} steps of {row['solver']}")
    result = {"real": real, "clips": clips, "long": long, "frames": frames, "seed": seed}
    result |= {"rows": rows}
    write_json(f"{out}.json", result)
    with atomic_write(f"{out}.png") as partly:
        contact_sheet(pictures, every=frames // SHOWN).save(partly, format="PNG")
    print_rows(rows, lengths=(CLIP, frames))
    return result


def ways(generator: Generator, few: bool) -> Iterator[Way]:
    """List how a generator is asked to make videos."""
    if not few:
        yield Way(50, difference=5, solver=DDIM())
        yield Way(8, difference=1, solver=DPMSolver2M())
    solver = generator.solver if few else DDIM()
    for steps in (4, 2, 1):
        yield Way(steps, difference=min(generator.difference if few else 1, steps), solver=solver)


def compare(real: Tensor, video: Tensor) -> dict[str, Any]:
    """Return both distances of videos to real features, the Fréchet distance with its interval."""
    made = describe(video)
    distance = partial(feature_distance, real, made, 0)
    value, sides = distance(), (range(len(real)), range(len(made)))
    distances = partial(in_threads, distance)
    interval = distance_interval(distances, value, sides, Bootstrap(), lowest=0.0)
    return {"frechet": value, "interval": interval, "kernel": kernel_distance(real, made)}


def print_rows(rows: list[dict[str, Any]], lengths: tuple[int, int]) -> None:
    """Print the table."""
    names = ("generator", "solver", "steps", "difference")
    measures = [f"{what}, {n}" for n in lengths for what in ("Fréchet", "kernel", "motion")]
    table = Table(
        *names, *measures, "seconds", title="Distances to real videos, motion over theirs"
    )
    for row in rows:
        cells = [str(row[name]) for name in names]
        for found in (row[f"frames_{n}"] for n in lengths):
            low, high = found["interval"]
            cells.append(f"{found['frechet']:.2f} ({low:.2f} to {high:.2f})")
            cells += [f"{found['kernel']:.3f}", f"{found['motion']:.2f}"]
        table.add_row(*cells, f"{row['seconds']:.1f}")
    Console(width=200).print(table)


def main(args: list[str] | None = None) -> None:
    """Run the command line; the last line of its output is one JSON object."""
    run_script(few_steps, args)


if __name__ == "__main__":
    main()
