"""The whole project in minutes on a CPU: `python -m experiments.demo`, as `make demo` does.

Procedural skies are written as videos, both stages are trained on them by the same commands that a
user types, four videos of 128 frames are generated, and everything is measured.
"""

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ardiffusion.files import write_json
from ardiffusion.training.messages import clear_messages
from experiments.command import ARDIFF, DIT, VAE, command_line, run, run_script
from experiments.demo_report import DIFFERENCE, STEPS, Report, report

READING = ("stage 1", "cache", "stage 2")  # stages with a process that reads clips


def demo(
    out: str = "demo",
    videos: int = 240,
    vae_steps: int = 1200,
    dit_steps: int = 1300,
    samples: int = 4,
    frames: int = 128,
) -> dict[str, float]:
    """Train both stages on procedural skies, generate videos and measure them.

    Args:
        out: Folder for videos, runs, samples, contact sheet and report.
        videos: Procedural videos to train on; a tenth of them is held out.
        vae_steps: Batches of stage 1.
        dit_steps: Batches of stage 2.
        samples: Videos to generate.
        frames: Frames per generated video.
    """
    folder = Path(out)
    data, latents = folder / "skies", folder / "latents"
    vae_last, dit_last = (folder / stage / "checkpoints" / "last.ckpt" for stage in ("vae", "dit"))
    save_dir = "--trainer.logger.init_args.save_dir"
    stages = {
        "clips": command_line(ARDIFF, "videos", data, f"--videos {videos}"),
        "stage 1": command_line(
            *(VAE, "fit --config vae_tiny.yaml --data.root", data, steps(vae_steps)),
            *(save_dir, folder / "vae"),
        ),
        "cache": command_line(
            *(VAE, "predict --config vae_tiny.yaml --data.root", data, "--data.frames 16"),
            *("--ckpt_path", vae_last, "--output", latents),
        ),
        "stage 2": command_line(
            *(DIT, "fit --config dit_tiny.yaml --data.root", data, "--data.latents", latents),
            *("--model.arvae", vae_last, steps(dit_steps), save_dir, folder / "dit"),
        ),
        "samples": command_line(
            *(DIT, "predict --ckpt_path", dit_last, f"--samples {samples} --frames {frames}"),
            f"--solver DPMSolver2M --steps {STEPS} --difference {DIFFERENCE}",
            *("--output", folder / "samples"),
        ),
    }
    seconds = {}
    for name, command in stages.items():
        seconds[name] = run(name, command, readers=name in READING)
    start = time.monotonic()
    with clear_messages():
        result = report(folder, data=data, ckpt_path=dit_last, samples=samples, frames=frames)
    seconds["report"] = time.monotonic() - start
    show(result, seconds=seconds)
    write_json(folder / "report.json", result._asdict() | {"seconds": seconds})
    return {name: round(value, 4) for name, value in result._asdict().items()}


def steps(count: int) -> str:
    """Return the options that make a run of so many batches."""
    schedule = {"steps": count, "warm_up": min(100, count // 10)}
    options = [f"--model.lr_scheduler.init_args.{name} {n}" for name, n in schedule.items()]
    return " ".join([f"--trainer.max_steps {count}", *options])


def show(result: Report, seconds: dict[str, float]) -> None:
    """Print the tables of times and of measurements."""
    console = Console()
    times = Table("stage", "seconds", title="Times")
    for name, value in seconds.items():
        times.add_row(name, f"{value:.0f}")
    times.add_row("all", f"{sum(seconds.values()):.0f}")
    console.print(times)
    numbers = Table("measure", "value", "what it is", title="Measurements")
    for name, (value, meaning) in result.explained().items():
        numbers.add_row(name, f"{value:.3g}", meaning)
    console.print(numbers)


def main(args: list[str] | None = None) -> None:
    """Run the command line; the last line of its output is one JSON object."""
    run_script(demo, args)


if __name__ == "__main__":
    main()
