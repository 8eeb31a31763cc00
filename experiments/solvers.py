"""Quality against steps of the solvers: `python -m experiments.solvers CHECKPOINT REAL`."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from ardiffusion.diffusion.solver import DDIM, DPMSolver2M
from ardiffusion.files import write_json
from ardiffusion.generator import Generator
from ardiffusion.metrics.features import Random3D, VideoFeatures
from ardiffusion.metrics.fvd import FrechetVideoDistance
from ardiffusion.nn.sizes import check_range
from ardiffusion.tools.options import device_of
from ardiffusion.tools.plot import caption, draw_curves, make_panels, save_figure
from ardiffusion.training.data import VideoDataModule
from experiments.command import run_script
from experiments.demo_report import read
from experiments.solver_study import Measurement, Study

NEAR = 1.05


def compare_solvers(
    checkpoint: str,
    real: str,
    steps: tuple[int, ...] = (50, 25, 16, 10, 8),
    videos: int = 64,
    frames: int = 16,
    difference: float = 0.1,
    reference: int = 500,
    compared: int = 8,
    batch_size: int = 16,
    seed: int = 0,
    extractor: VideoFeatures | None = None,
    out: str = "solvers",
    device: str = "cpu",
) -> dict[str, Any]:
    """Compare DDIM and the multistep solver; write OUT.json and the plot OUT.png.

    Args:
        checkpoint: What to generate with: a checkpoint of `ardiff-dit fit` or published weights.
        real: Folder of real videos; the clips of its training split are compared with.
        steps: Numbers of denoising steps.
        videos: Videos generated for each distance.
        frames: Frames per video.
        difference: Steps between neighbouring frames over all steps, from 0 to 1.
        reference: Steps of the DDIM solution that deviations are taken from.
        compared: Videos that deviations are taken of.
        batch_size: Videos generated at once.
        seed: Seed of the noise, which is the same for every solver and number of steps.
        extractor: Feature network; Random3D when not given.
        out: Path of both files, without their ends.
        device: Where to compute.
    """
    counts = {"steps": min(steps, default=0), "compared": compared, "batch_size": batch_size}
    check_options(counts | {"frames": frames}, videos=videos, difference=difference)
    generator = Generator.from_pretrained(checkpoint).to(device_of(device))
    metric = distance_to_real(
        extractor or Random3D(),
        root=real,
        resolution=generator.arvae.resolution,
        frames=frames,
        device=device,
    )
    study = Study(
        generator=generator,
        metric=metric,
        videos=videos,
        frames=frames,
        share=difference,
        compared=compared,
        batch_size=batch_size,
        seed=seed,
    )
    found = run_study(study, steps=sorted(set(steps), reverse=True), reference=reference)
    best, base = fewest_steps(found), baseline_distance(found)
    result = {
        "checkpoint": checkpoint,
        "real": {"folder": real, "clips": metric.counts()[0]},
        "videos": videos,
        "frames": frames,
        "seed": seed,
        "reference": reference,
        "distance": metric.name,
        "rows": [asdict(one) | {"ratio": one.frechet / base} for one in found],
        "fewest": best,
    }
    write_json(f"{out}.json", result)
    plot_measurements(found, reference=reference, path=f"{out}.png")
    print_measurements(found, best=best)
    return result


def check_options(counts: dict[str, int], videos: int, difference: float) -> None:
    """Raise if an option cannot be served, or the plot not be drawn."""
    check_range("--{}", 1, **counts)
    make_panels(1, columns=1)
    if videos < 2:
        raise ValueError(f"A Fréchet distance needs two --videos or more, got {videos}.")
    if not 0 <= difference <= 1:
        raise ValueError(f"--difference is a share of the steps, from 0 to 1, got {difference}.")


def distance_to_real(
    extractor: VideoFeatures, root: str, resolution: int, frames: int, device: str
) -> FrechetVideoDistance:
    """Return a metric that has seen every training clip of a folder."""
    extractor.load()
    metric = FrechetVideoDistance(extractor).to(device)
    data = VideoDataModule(
        root=root, resolution=resolution, frames=frames, workers=0, val_fraction=0.1
    )
    for clips in read(data, split="train").split(8):
        metric.update(real=clips.to(device))
    return metric


def run_study(study: Study, steps: Sequence[int], reference: int) -> list[Measurement]:
    """Run a study with both solvers under a progress bar."""
    solvers = (DDIM(), DPMSolver2M())
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        each = sum(study.iterations(count) for count in steps)
        task = bar.add_task("Sampling", total=reference + len(solvers) * each)
        study.advance = lambda: bar.advance(task)
        return study.measure_all(solvers, steps=steps, reference=reference)


def baseline_distance(found: Sequence[Measurement]) -> float:
    """Return the distance of DDIM at the most steps."""
    ddim = [one for one in found if one.solver == DDIM.__name__]
    return max(ddim, key=lambda one: one.steps).frechet


def fewest_steps(found: Sequence[Measurement]) -> dict[str, int]:
    """Return each solver's fewest steps whose distance is at most 5 % above the baseline."""
    near = [one for one in found if one.frechet <= NEAR * baseline_distance(found)]
    return {
        name: min(one.steps for one in near if one.solver == name)
        for name in {one.solver: None for one in near}
    }


def print_measurements(found: Sequence[Measurement], best: dict[str, int]) -> None:
    """Print the table and the fewest steps."""
    console, base = Console(), baseline_distance(found)
    names = ("solver", "steps", "difference", "evaluations", "Fréchet", "ratio", "deviation")
    table = Table(*names, title="Evaluations are per frame, ratios to DDIM at the most steps")
    for one in found:
        table.add_row(
            one.solver,
            str(one.steps),
            str(one.difference),
            f"{one.evaluations:.1f}",
            f"{one.frechet:.2f}",
            f"{one.frechet / base:.3f}",
            f"{100 * one.deviation:.1f} %",
        )
    console.print(table)
    most = max(one.steps for one in found)
    enough = ", ".join(f"{steps} of {name}" for name, steps in best.items())
    console.print(f"Fewest steps within 5 % of DDIM at {most}: {enough}.")


def plot_measurements(found: Sequence[Measurement], reference: int, path: str) -> None:
    """Plot both measurements against the steps."""
    names = list(dict.fromkeys(one.solver for one in found))
    steps = sorted({one.steps for one in found})
    measures: dict[str, Callable[[Measurement], float]] = {
        "Fréchet distance to real clips": lambda one: one.frechet,
        f"Deviation from DDIM at {reference} steps, %": lambda one: 100 * one.deviation,
    }
    figure, panels = make_panels(len(measures), columns=2)
    for panel, (title, measure) in zip(panels, measures.items(), strict=True):
        curves = {n: [(m.steps, measure(m)) for m in found if m.solver == n] for n in names}
        draw_curves(panel, curves, names)
        panel.set_ylim(bottom=0)
        panel.set_xscale("log")
        panel.set_xticks(steps, labels=map(str, steps))
        panel.minorticks_off()
        caption(panel, title, x_label="steps")
    save_figure(figure, path)


def main(args: list[str] | None = None) -> None:
    """Run the command line; the last line of its output is one JSON object."""
    run_script(compare_solvers, args)


if __name__ == "__main__":
    main()
