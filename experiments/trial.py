"""One trial of a study: an arm trained with one seed, and what its videos measure.

`experiments.study` calls `run` in processes of its own; `python -m experiments.trial run STUDY ARM
SEED` does the same.
"""

import json
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import yaml
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from ardiffusion import cli
from ardiffusion.data.clips import resize_crop
from ardiffusion.data.layouts import VIDEOS
from ardiffusion.data.video import read_frames
from ardiffusion.diffusion import plans, solver
from ardiffusion.diffusion.noise import latent_noise, sample_seeds, step_seed
from ardiffusion.files import write_json, write_tensors
from ardiffusion.generator import Generator
from ardiffusion.hub import load_arvae
from ardiffusion.metrics.features import Random3D
from ardiffusion.metrics.frechet import feature_distance
from ardiffusion.metrics.image import psnr
from ardiffusion.metrics.kernel import kernel_distance
from ardiffusion.nn.autoencoder import Autoencoder, to_bytes, to_unit
from ardiffusion.tools.loss_curve import read_curve, steadiness
from ardiffusion.training.data import VideoDataModule
from ardiffusion.training.spike_detector import SpikeDetector
from experiments.command import run_script
from experiments.demo_report import motion, nearest

CLIP, RESOLUTION = 16, 64  # of vae_tiny.yaml
PAPER: dict[str, Any] = {  # what arms change, and how they are sampled if they do not say
    "timesteps": {"class_path": "ardiffusion.diffusion.timesteps.FoPP"},
    "weighting": {"class_path": "ardiffusion.diffusion.weighting.Uniform"},
    "optimizer": {
        "class_path": "torch.optim.AdamW",
        "init_args": {"fused": True, "lr": 1e-3, "weight_decay": 1e-4},
    },
    "solver": {"class_path": "ardiffusion.diffusion.solver.DPMSolver2M"},
    "steps": 30,
    "difference": 3,
}
ON_GPU = torch.cuda.is_available()
AT_ONCE = 256 if ON_GPU else 32  # videos that are generated, decoded or described together


def device() -> str:
    return "cuda" if ON_GPU else "cpu"


def reference(study: str) -> None:
    """Describe the real videos of a study."""
    folder = Path(study)
    real = real_videos(folder)
    found = {name: describe(video) for name, video in real.items()}
    found |= {f"motion_{name}": torch.tensor(motion(video)) for name, video in real.items()}
    found["first"] = describe(real["short"][:, :1])
    write_tensors(folder / "real.safetensors", found)


def rebuild(study: str, stage_1: str) -> None:
    """Measure real videos there and back by an auto-encoder, and encode those to train on."""
    folder = Path(study)
    stage, real = folder / "stage_1" / stage_1, real_videos(folder)
    arvae = load_arvae(stage / "checkpoints" / "last.ckpt").to(device()).eval()
    rebuilt = {name: decode(arvae, encode(arvae, video)) for name, video in real.items()}
    error = float(psnr(real["short"], rebuilt["short"]).mean())
    measures = measure(rebuilt, real=load_file(folder / "real.safetensors"))
    write_json(stage / "rebuilt.json", {"psnr": error} | measures)
    train = read(data_of(folder, settings_of(folder)))
    bank = torch.cat([encode(arvae, video[None]) for video in train], dim=1)  # (1, N, L, C)
    write_tensors(stage / "bank.safetensors", {"bank": bank})


def real_videos(folder: Path) -> dict[str, Tensor]:
    """Read the held-out videos as clips and, where they are long enough, as long videos."""
    settings = settings_of(folder)
    held_out = read(Path(settings["held_out"] or folder / "held_out"))
    real = {"short": clips_of(held_out, count=settings["clips"])}
    frames = settings["frames"]
    if long := [video[:frames] for video in held_out if len(video) >= frames]:
        real["long"] = torch.stack(long)
    return real


def settings_of(folder: Path) -> dict[str, Any]:
    """Read what the study was asked."""
    return json.loads((folder / "done.json").read_text())["settings"]


def data_of(folder: Path, settings: Mapping[str, Any]) -> Path:
    """Return the folder of the videos that are trained on."""
    return Path(settings["root"] or folder / "skies")


def read(folder: Path, resolution: int = RESOLUTION) -> list[Tensor]:
    """Read all videos of a folder, scaled and cropped, uint8 (F, 3, H, W)."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEOS)
    return [resize_crop(read_frames(path), resolution) for path in paths]


def clips_of(videos: Sequence[Tensor], count: int) -> Tensor:
    """Cut some `count` clips (N, F, 3, H, W) in all, spread evenly over each video."""
    each, clips = max(count // len(videos), 1), []
    for video in videos:
        starts = torch.linspace(0, len(video) - CLIP, each).long().unique().tolist()
        clips += [video[start : start + CLIP] for start in starts]
    return torch.stack(clips)


def is_done(study: str, arm: str, seed: int) -> bool:
    """Say whether a trial has been measured."""
    return (Path(study) / arm / f"seed_{seed}" / "measures.json").exists()


def run_logged(trial: tuple[str, str, int]) -> str | None:
    """Run a trial with what it prints in its `log.txt`; return a sentence if it failed."""
    study, arm, seed = trial
    file = Path(study) / arm / f"seed_{seed}" / "log.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            run(study, arm, seed)
        except (Exception, SystemExit):
            traceback.print_exc(file=sys.stderr)
            return f"{arm}, seed {seed}: see {file}"
    return None


def run(study: str, arm: str, seed: int) -> None:
    """Train an arm with a seed unless that is done, generate videos and measure them."""
    folder = Path(study)
    settings = settings_of(folder)
    parts = json.loads((folder / "arms" / f"{arm}.json").read_text())
    stage_1 = folder / "stage_1" / parts["vae"].get("name", "stage_1")
    place, start = folder / (parts["of"] or arm) / f"seed_{seed}", time.monotonic()
    if not parts["of"]:
        data = data_of(folder, settings)
        cli.dit(training(place, stage_1, settings, parts["dit"], data=data, seed=seed))
    seconds = {"training": time.monotonic() - start}
    generator = Generator.from_pretrained(place / "checkpoints" / "last.ckpt").to(device())
    start = time.monotonic()
    made = {
        name: sample(generator, count, frames=frames, seed=seed, options=parts[name])
        for name, count, frames in (
            ("short", settings["clips"], CLIP),
            ("long", settings["long"], settings["frames"]),
        )
    }
    seconds["sampling"] = time.monotonic() - start
    measures = compare(folder, stage_1, generator, made) | steady(place)
    own = folder / arm / f"seed_{seed}"
    write_json(own / "measures.json", measures | {"seconds": seconds})


def training(
    place: Path,
    stage_1: Path,
    settings: Mapping[str, Any],
    changes: Mapping[str, Any],
    data: Path,
    seed: int,
) -> list[str]:
    """Spell the command that trains stage 2; the changes of the arm come last and win."""
    steps = settings["dit_steps"]
    schedule = {"steps": steps, "warm_up": min(100, steps // 10)}
    base: dict[str, Any] = {
        "seed_everything": seed,
        "trainer": {
            "max_steps": steps,
            "limit_val_batches": 0,
            "logger": {"init_args": {"save_dir": str(place)}},
        },
        "data": {"root": str(data), "val_fraction": 0.0, "workers": 0},
        "model": {
            **PAPER,
            "arvae": str(stage_1 / "checkpoints" / "last.ckpt"),
            "lr_scheduler": {"init_args": schedule},
        },
    }
    base["data"]["latents"] = str(stage_1 / "latents")
    if settings.get("root"):
        classes = len(VideoDataModule(root=str(data)).classes)
        base["model"]["dit"] = {"init_args": {"classes": classes}}
    command = ["fit", "--ckpt_path", "last", "--config", "dit_tiny.yaml"]
    place.mkdir(parents=True, exist_ok=True)
    for name, part in {"base": base, "changes": changes}.items():
        (place / f"{name}.yaml").write_text(yaml.safe_dump(dict(part)))
        command += ["--config", str(place / f"{name}.yaml")]
    return command


def sample(
    generator: Generator, count: int, frames: int, seed: int, options: Mapping[str, Any]
) -> Tensor:
    """Generate latents (N, F, L, C), classes in turn."""
    sampler = generator.sampler(frames=frames, **sampling(options))
    tokens, channels = generator.arvae.tokens, generator.arvae.channels
    parts = []
    for some in torch.arange(count).split(AT_ONCE):
        seeds = sample_seeds(seed, some.tolist())
        generators = [torch.Generator().manual_seed(one) for one in seeds]
        noise = latent_noise(generators, frames=frames, tokens=tokens, channels=channels)
        label = generator.labels_in_turn(some.tolist())
        fresh = [torch.Generator().manual_seed(step_seed(one)) for one in seeds]
        made = sampler.sample(generator.dit, noise.to(device()), label=label, generators=fresh)
        parts.append(made.cpu())
    return generator.arvae.normalise(torch.cat(parts))


def sampling(options: Mapping[str, Any]) -> dict[str, Any]:
    """Build plan and solver where they are names, perhaps with arguments, as {DDIM: {eta: 1}}."""
    found = dict(options)
    for key, module in {"plan": plans, "solver": solver}.items():
        given = found.get(key)
        given = {given: {}} if isinstance(given, str) else given
        if isinstance(given, Mapping):
            ((name, arguments),) = given.items()
            found[key] = getattr(module, name)(**arguments)
    return found


def compare(
    folder: Path, stage_1: Path, generator: Generator, made: Mapping[str, Tensor]
) -> dict[str, float]:
    """Measure generated latents, short and long, against real videos."""
    videos = {name: decode(generator.arvae, latents) for name, latents in made.items()}
    found = {"psnr": json.loads((stage_1 / "rebuilt.json").read_text())["psnr"]}
    found |= measure(videos, real=load_file(folder / "real.safetensors"))
    bank, long = load_file(stage_1 / "bank.safetensors")["bank"].to(device()), made["long"]
    far = torch.cat([nearest(one.to(device()), bank=bank).cpu() for one in long.split(8)])
    quarter = long.shape[1] // 4
    found["drift"] = float(far[:, -quarter:].mean() / far[:, :quarter].mean())
    return found


def measure(videos: Mapping[str, Tensor], real: Mapping[str, Tensor]) -> dict[str, float]:
    """Compare uint8 videos, short and long ones, with what is known of real ones.

    Where no real videos are that long, the clips of long videos are compared with clips.
    """
    found = {}
    for name, video in videos.items():
        like = name if name in real else "short"
        if like != name:
            whole = video[:, : video.shape[1] // CLIP * CLIP]
            video = rearrange(whole, "n (k f) c h w -> (n k) f c h w", f=CLIP)
        features = describe(video)
        found[f"frechet_{name}"] = feature_distance(real[like], features)
        found[f"kernel_{name}"] = kernel_distance(real[like], features)
        found[f"motion_{name}"] = motion(video) / float(real[f"motion_{like}"])
    first = describe(videos["short"][:, :1])
    return found | {"frechet_first": feature_distance(real["first"], first)}


def steady(place: Path) -> dict[str, float]:
    """Measure how steady the training was."""
    row, _ = steadiness(read_curve(place, name="arm"), SpikeDetector())
    found = {"fluctuation": row["fluctuation"], "spikes": row["spikes_per_1000"]}
    return {name: value for name, value in found.items() if value is not None}


def parts_of(video: Tensor) -> Iterator[Tensor]:
    """Move videos or latents to the device, some at once."""
    return (part.to(device()) for part in video.split(AT_ONCE))


@torch.no_grad()
def describe(video: Tensor) -> Tensor:
    """Describe uint8 videos (N, F, 3, H, W) by features (N, d)."""
    network = Random3D().to(device())
    return torch.cat([network(part).cpu() for part in parts_of(video)])


@torch.no_grad()
def encode(arvae: Autoencoder, video: Tensor) -> Tensor:
    """Encode uint8 videos (N, F, 3, H, W) to normalised latents (N, F, L, C)."""
    return torch.cat([arvae.normalise(arvae.encode(to_unit(x))).cpu() for x in parts_of(video)])


@torch.no_grad()
def decode(arvae: Autoencoder, latents: Tensor) -> Tensor:
    """Decode latents (N, F, L, C) to uint8 videos (N, F, 3, H, W)."""
    return torch.cat([to_bytes(arvae.decode(part)).cpu() for part in parts_of(latents)])


def main(args: list[str] | None = None) -> None:
    """Run the command line."""
    run_script([reference, rebuild, run], args)


if __name__ == "__main__":
    main()
