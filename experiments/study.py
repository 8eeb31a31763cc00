"""Which variant of the method is better, decided by paired seeds: `python -m experiments.study`.

Arms, changes of the small configurations, are trained with the same seeds: the same clips in the
same order, the same noise. Every trial generates hundreds of clips, which are measured, and every
arm is compared with the first one, seed by seed, with intervals over the seeds. A study that was
cut short goes on, and takes new arms and seeds.
"""

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.console import Console
from rich.progress import track

from ardiffusion.files import write_json
from ardiffusion.nn.sizes import check_range
from experiments.command import ARDIFF, PYTHON, VAE, command_line, run_script
from experiments.stages import Stage, StageLog
from experiments.study_table import write_results
from experiments.trial import is_done, run_logged

CLIP = 16  # frames that stage 2 sees at once
HELD_OUT_SEED = 1  # of the videos that nothing is trained on
STUDIES = Path(__file__).parent / "studies"


class Arm(NamedTuple):
    """A variant: what it changes of `vae_tiny.yaml` and `dit_tiny.yaml`, and how it is sampled.

    Attributes:
        dit: Changes of stage 2.
        vae: Name and changes of stage 1; arms that name none share one.
        short: Options of the sampler for clips.
        long: Options of the sampler for long videos.
        of: Arm whose networks are sampled in another way; nothing is trained then.
    """

    dit: Mapping[str, Any] = {}
    vae: Mapping[str, Any] = {}
    short: Mapping[str, Any] = {}
    long: Mapping[str, Any] = {}
    of: str | None = None

    @property
    def stage_1(self) -> str:
        return self.vae.get("name", "stage_1")


def study(
    out: str = "study",
    arms: str = "skies.yaml",
    only: list[str] | None = None,
    seeds: int = 4,
    jobs: int = 1,
    root: str | None = None,
    held_out: str | None = None,
    videos: int = 240,
    vae_steps: int = 1200,
    dit_steps: int = 1300,
    clips: int = 512,
    long: int = 128,
    frames: int = 128,
) -> dict[str, Any]:
    """Train arms with paired seeds, measure and compare them.

    Args:
        out: Folder of everything; table.md and study.png in it show the results.
        arms: YAML file of the arms, the first of which the others are compared with; a name of
            `experiments/studies` or a path.
        only: Names of the arms to train; all if not given. The first is always among them.
        seeds: Seeds per arm.
        jobs: Trials at once; more than one is worth it on a GPU, or with many cores.
        root: Folder of videos to train on; procedural skies if not given.
        held_out: Folder of videos that generated ones are compared with, beside `root`.
        videos: Procedural videos to train on.
        vae_steps: Batches of stage 1.
        dit_steps: Batches of stage 2.
        clips: Generated clips of 16 frames per trial.
        long: Generated long videos per trial.
        frames: Frames of the long videos. Where held-out ones are shorter, the clips of long
            videos are compared with clips.
    """
    if (root is None) != (held_out is None):
        raise ValueError("--root and --held_out go together: give both, or none for skies.")
    counts = {"seeds": seeds, "jobs": jobs, "videos": videos, "vae_steps": vae_steps}
    counts |= {"dit_steps": dit_steps, "clips": clips, "long": long, "frames": frames}
    check_range("--{}", 1, **counts)
    check_range("--{}", 2 * CLIP, frames=frames)
    known, folder = read_arms(arms), Path(out)
    first = next(iter(known))
    if unknown := sorted({*(only or ())} - known.keys()):
        raise ValueError(f"{arms} has no arm {unknown[0]!r}, only {', '.join(known)}.")
    wanted = {first, *(only or known)}
    wanted |= {known[name].of for name in wanted}  # networks that others sample
    chosen = [name for name in known if name in wanted]
    sizes = {k: n for k, n in counts.items() if k not in ("seeds", "jobs")}
    settings = sizes | {"root": root, "held_out": held_out}
    log = StageLog(folder, settings, kind="study")
    for name, arm in ((name, known[name]) for name in chosen):
        note_arm(folder / "stages" / f"{arm.stage_1}.json", Arm(vae=arm.vae))
        note_arm(folder / "arms" / f"{name}.json", arm)
    prepare(folder, settings, arms=[known[name] for name in chosen], log=log, jobs=jobs)
    failed = run_trials(folder, {name: known[name] for name in chosen}, seeds=seeds, jobs=jobs)
    results = write_results(folder, chosen, seeds=seeds)
    return {"table": str(folder / "table.md"), "failed": failed, "trials": results}


def read_arms(name: str) -> dict[str, Arm]:
    """Read the arms of a study by name."""
    path = next((p for p in (Path(name), STUDIES / name) if p.is_file()), None)
    if path is None:
        raise ValueError(f"There is no {name}, neither here nor in {STUDIES}.")
    found = yaml.safe_load(path.read_text())
    found = found if isinstance(found, dict) else {}
    named = {str(arm): parts or {} for arm, parts in found.items() if not f"{arm}".startswith("_")}
    if not named:
        raise ValueError(f"{path} names no arms: write `name: {{dit: {{...}}}}` for each.")
    for arm, parts in named.items():
        if not isinstance(parts, dict) or not parts.keys() <= set(Arm._fields):
            raise ValueError(f"{path}: give {arm} some of {', '.join(Arm._fields)}, not {parts}.")
    arms = {name: Arm(**parts) for name, parts in named.items()}
    return {name: same_networks(arms, name) if arm.of else arm for name, arm in arms.items()}


def same_networks(arms: Mapping[str, Arm], name: str) -> Arm:
    """Give an arm that samples another one's networks the auto-encoder of those."""
    arm = arms[name]
    trained = arms.get(arm.of or "")
    if trained is None or trained.of or arm.dit or arm.vae:
        raise ValueError(
            f"{name} is of {arm.of}: name an arm that is trained, and change short or long alone."
        )
    return arm._replace(vae=trained.vae)


def note_arm(file: Path, arm: Arm) -> None:
    """Write what an arm or its stage 1 is; what is done of another of its name is not its own."""
    said = json.loads(json.dumps(arm._asdict()))
    if file.exists() and json.loads(file.read_text()) != said:
        raise ValueError(
            f"{file} says that {file.stem} is something else: rename it or choose another --out."
        )
    write_json(file, said)


def prepare(
    folder: Path, settings: Mapping[str, Any], arms: Iterable[Arm], log: StageLog, jobs: int
) -> None:
    """Draw the videos, train the auto-encoders of stage 1 and encode what stage 2 learns."""
    if settings["root"] is None:
        real = f"--videos {max(settings['clips'] // 2, settings['long'])}"
        real += f" --frames {settings['frames']} --seed {HELD_OUT_SEED}"
        draw = command_line(ARDIFF, "videos", folder / "skies", f"--videos {settings['videos']}")
        log.do(Stage("videos", draw))
        log.do(Stage("held-out videos", command_line(ARDIFF, "videos", folder / "held_out", real)))
    stages = {arm.stage_1: arm.vae for arm in arms}
    with ThreadPoolExecutor(jobs) as pool:
        parts = pool.map(lambda name: stage_1(folder, name, stages[name], settings), stages)
        done = pool.map(lambda part: [log.do(stage) for stage in part], parts)
        list(done)  # raises what a stage raised
    trial = "-m experiments.trial"
    log.do(Stage("real videos", command_line(PYTHON, trial, "reference", folder)))
    for name in stages:
        rebuild = command_line(PYTHON, trial, "rebuild", folder, Path(name))
        log.do(Stage(f"{name}: there and back", rebuild))


def stage_1(
    folder: Path, name: str, changes: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[Stage]:
    """List the commands that train an auto-encoder and encode the videos."""
    place, steps = folder / "stage_1" / name, settings["vae_steps"]
    place.mkdir(parents=True, exist_ok=True)
    own = {key: value for key, value in changes.items() if key != "name"}
    (place / "changes.yaml").write_text(yaml.safe_dump(own))
    config = "--config vae_tiny.yaml --config", place / "changes.yaml"
    readers = min((os.cpu_count() or 1) // 2, 6)
    data = "--data.root", Path(settings["root"] or folder / "skies")
    data = *data, f"--data.val_fraction 0 --data.workers {readers}"
    fit = f"--trainer.max_steps {steps} --model.lr_scheduler.init_args.steps {steps}"
    fit += f" --model.lr_scheduler.init_args.warm_up {min(100, steps // 10)}"
    fit += " --trainer.limit_val_batches 0 --ckpt_path last --trainer.logger.init_args.save_dir"
    encode = "--data.frames 16 --data.batch_size 4 --ckpt_path"
    encode = encode, place / "checkpoints" / "last.ckpt", "--output", place / "latents"
    predict = command_line(VAE, "predict", *config, *data, *encode)
    return [
        Stage(f"{name}: training", command_line(VAE, "fit", *config, *data, fit, place), readers),
        Stage(f"{name}: latents", predict, readers),
    ]


def run_trials(folder: Path, arms: Mapping[str, Arm], seeds: int, jobs: int) -> list[str]:
    """Run the trials that are not done, some at once; return the names of those that failed."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // jobs, 1)))
    failed = []
    # processes serve many trials; what is trained comes before what samples it in another way
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for trained in (True, False):
            names = [name for name, arm in arms.items() if (arm.of is None) == trained]
            trials = [(str(folder), name, seed) for seed in range(seeds) for name in names]
            left = [t for t in trials if not is_done(*t)]
            console = Console(stderr=True)
            ended = track(pool.map(run_logged, left), "Trials", total=len(left), console=console)
            failed += [failure for failure in ended if failure]
    return failed


def main(args: list[str] | None = None) -> None:
    """Run the command line; the last line of its output is one JSON object."""
    run_script(study, args)


if __name__ == "__main__":
    main()
