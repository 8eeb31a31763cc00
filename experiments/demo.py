"""The whole project in minutes on a CPU: `python -m experiments.demo`, as `make demo` does.

Procedural skies are written as videos, both stages are trained on them by the same commands that a
user types, 16 videos of 128 frames are generated, and everything is measured. So little training
leaves much to chance: `--seeds 5` repeats it and states the scatter. A run that was cut short goes
on where it was.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from ardiffusion.files import write_json
from ardiffusion.nn.sizes import check_range
from experiments.command import ARDIFF, DIT, VAE, command_line, run_script
from experiments.demo_report import MEANING, report
from experiments.stages import Stage, StageLog


class Demo(NamedTuple):
    """One training of both stages, and what comes of it.

    Attributes:
        folder: Folder for runs, samples, contact sheet and report.
        data: Folder of the videos.
        seed: Seed of the trainings and of the samples.
        videos: Procedural videos to train on; a tenth of them is held out.
        vae_steps: Batches of stage 1.
        dit_steps: Batches of stage 2.
        samples: Videos to generate.
        frames: Frames per generated video.
    """

    folder: Path
    data: Path
    seed: int
    videos: int
    vae_steps: int
    dit_steps: int
    samples: int
    frames: int

    def last(self, stage: str) -> Path:
        """Last checkpoint of a stage."""
        return self.folder / stage / "checkpoints" / "last.ckpt"

    def stages(self) -> list[Stage]:
        """List the commands."""
        data, latents = ("--data.root", self.data), self.folder / "latents"
        encode = VAE, "predict --config vae_tiny.yaml", *data, "--data.frames 16 --ckpt_path"
        arvae = "--data.latents", latents, "--model.arvae", self.last("vae")
        sample = f"--samples {self.samples} --frames {self.frames} --seed {self.seed}"
        commands = {
            "clips": (ARDIFF, "videos", self.data, f"--videos {self.videos}"),
            "stage 1": (VAE, *self.fit("vae", self.vae_steps), *data),
            "cache": (*encode, self.last("vae"), "--output", latents),
            "stage 2": (DIT, *self.fit("dit", self.dit_steps), *data, *arvae),
            "samples": (
                *(DIT, "predict --ckpt_path", self.last("dit"), sample, "--batch_size 8"),
                *("--output", self.folder / "samples"),
            ),
        }
        return [Stage(name, command_line(*parts)) for name, parts in commands.items()]

    def fit(self, stage: str, steps: int) -> list[str | Path]:
        """Spell the options of a training, which goes on where it was cut short."""
        schedule = {"steps": steps, "warm_up": min(100, steps // 10)}
        options = [f"--model.lr_scheduler.init_args.{name} {n}" for name, n in schedule.items()]
        given = f"fit --config {stage}_tiny.yaml --seed_everything {self.seed}"
        given += f" --trainer.max_steps {steps} {' '.join(options)} --ckpt_path last"
        return [given, "--trainer.logger.init_args.save_dir", self.folder / stage]


def demo(
    out: str = "demo",
    videos: int = 480,
    vae_steps: int = 1000,
    dit_steps: int = 1300,
    samples: int = 16,
    frames: int = 128,
    seeds: int = 1,
) -> dict[str, Any]:
    """Train both stages on procedural skies, generate videos and measure them.

    Args:
        out: Folder for videos, runs, samples, contact sheet and report.
        videos: Procedural videos to train on; a tenth of them is held out.
        vae_steps: Batches of stage 1.
        dit_steps: Batches of stage 2.
        samples: Videos to generate.
        frames: Frames per generated video.
        seeds: How often to do that with the same videos, from seeds 0, 1 and so on. If more than
            once, each has a folder of its own, as OUT/seed_0.
    """
    check_range("--{}", 1, seeds=seeds)
    sizes = (videos, vae_steps, dit_steps, samples, frames)
    folders = [Path(out)] if seeds == 1 else [Path(out, f"seed_{seed}") for seed in range(seeds)]
    reports = [
        train_and_measure(Demo(folder, Path(out, "skies"), seed, *sizes))
        for seed, folder in enumerate(folders)
    ]
    print_tables(reports)
    values = {name: [found[name] for found in reports] for name in MEANING}
    if seeds == 1:
        return {name: round(value, 4) for name, (value,) in values.items()}
    scatter = {
        name: {"mean": mean(found), "min": min(found), "max": max(found), "values": found}
        for name, found in values.items()
    }
    write_json(Path(out, "seeds.json"), {"seeds": seeds, **scatter})
    return {"seeds": seeds, **scatter}


def train_and_measure(task: Demo) -> dict[str, Any]:
    """Do what is not done yet, and return what `report.json` says: measures and seconds."""
    places = ("folder", "data")
    sizes = {name: value for name, value in task._asdict().items() if name not in places}
    log, file = StageLog(task.folder, sizes, kind="demo"), task.folder / "report.json"
    for stage in task.stages():
        log.do(stage, place=f"seed {task.seed}: ")
    if "report" not in log.seconds:
        start = time.monotonic()
        found = report(
            task.folder,
            data=task.data,
            ckpt_path=task.last("dit"),
            samples=task.samples,
            frames=task.frames,
        )
        log.note("report", time.monotonic() - start)
        write_json(file, found | {"seconds": log.seconds})
    return json.loads(file.read_text())


def print_tables(reports: Sequence[dict[str, Any]]) -> None:
    """Print the tables of times and of measurements."""
    console = Console()
    times = Table("stage", "seconds", title="Times")
    for name in reports[0]["seconds"]:
        times.add_row(name, f"{sum(found['seconds'][name] for found in reports):.0f}")
    times.add_row("all", f"{sum(sum(found['seconds'].values()) for found in reports):.0f}")
    console.print(times)
    columns = {"mean": mean, "min": min, "max": max} if len(reports) > 1 else {"value": mean}
    numbers = Table("measure", *columns, "what it is", title="Measurements")
    for name, meaning in MEANING.items():
        values = [found[name] for found in reports]
        numbers.add_row(name, *(f"{f(values):.3g}" for f in columns.values()), meaning)
    console.print(numbers)


def main(args: list[str] | None = None) -> None:
    """Run the command line; the last line of its output is one JSON object."""
    run_script(demo, args)


if __name__ == "__main__":
    main()
