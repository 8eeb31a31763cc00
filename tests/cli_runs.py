"""Tiny runs of both commands, typed as users type them."""

from pathlib import Path
from typing import Any

from ardiffusion import cli

COMMANDS = {"vae": cli.vae, "dit": cli.dit}
NOISE = (  # what nobody wants to read
    "Tip:|TPU|LeafSpec|an instance of|returned None|in eval mode at|Traceback|Warning|site-pack"
)
FIT = {"trainer.max_steps": 3, "trainer.val_check_interval": 2}
SAMPLES = {"samples": 2, "frames": 4, "steps": 3, "difference": 1}
VAE = {
    "config": "vae_tiny.yaml",
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
    "model.arvae.init_args.resolution": 16,
    "model.arvae.init_args.width": 16,
    "model.arvae.init_args.depth": 1,
    "model.arvae.init_args.heads": 2,
    "model.arvae.init_args.tokens": 2,
    "model.optimizer.init_args.smallest": 8,  # side of Muon's matrices, which are as small
    "data.resolution": 16,
    "data.batch_size": 2,
    "data.workers": 0,
    "data.clips_per_video": 1,
}
DIT = {
    "config": "dit_tiny.yaml",
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
    "model.dit.init_args.width": 16,
    "model.dit.init_args.depth": 1,
    "model.dit.init_args.heads": 2,
    "model.dit.init_args.tokens": 2,
    "model.optimizer.init_args.smallest": 8,
    "data.resolution": 16,
    "data.batch_size": 2,
    "data.workers": 0,
    "data.frames": 4,
}


def spell(*settings: dict[str, Any]) -> list[str]:
    """Spell settings as options; those that come later win."""
    merged = {name: value for group in settings for name, value in group.items()}
    return [f"--{name}={value}" for name, value in merged.items() if value is not None]


class Runs:
    """A folder with data, and the runs that were made in it."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self.data = {"data.root": root, "data.cache": folder / "index"}
        self.vae, self.dit = (folder / stage / "checkpoints/last.ckpt" for stage in COMMANDS)
        self.latents, self.samples = folder / "latents", folder / "samples"

    def settings(self, stage: str, verb: str) -> dict[str, Any]:
        """List what a good run of a stage is made with."""
        if (stage, verb) == ("dit", "predict"):
            given = {"ckpt_path": self.dit, "output": self.samples, "trainer.accelerator": "cpu"}
            return {**SAMPLES, **given}
        logger = {"trainer.logger.init_args.save_dir": self.folder / stage}
        settings = {**(VAE if stage == "vae" else DIT), **self.data, **logger}
        if verb == "fit":
            settings |= FIT
        else:
            settings |= {"ckpt_path": getattr(self, stage)}
        if stage == "dit":
            settings |= {"model.arvae": self.vae, "data.latents": self.latents}
        if (stage, verb) == ("vae", "predict"):
            settings |= {"data.frames": 4, "output": self.latents}
        return settings

    def run(self, stage: str, verb: str, *more: str, **other: Any) -> None:  # noqa: ANN401
        """Run a command with some settings changed, `model__x` for --model.x."""
        changed = {name.replace("__", "."): value for name, value in other.items()}
        COMMANDS[stage]([verb, *spell(self.settings(stage, verb), changed), *more])
