"""Our Lightning checkpoints as data: which stage made them, of which parts, with which weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ardiffusion.weights.tensor_files import read_pickle

COMMANDS = {"arvae": "ardiff-vae", "dit": "ardiff-dit"}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Map a checkpoint into memory, running nothing that it may contain."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no checkpoint {str(path)!r}; check --ckpt_path.")
    try:
        checkpoint = read_pickle(Path(path))
    except ValueError as error:
        raise ValueError(
            f"{path} is not a whole checkpoint of weights and numbers; check --ckpt_path."
        ) from error
    if not isinstance(checkpoint.get("state_dict"), dict):
        raise ValueError(f"{path} holds no Lightning checkpoint; check --ckpt_path.")
    return checkpoint


def check_stage(checkpoint: dict[str, Any], stage: str, source: str = "The checkpoint") -> None:
    """Refuse a checkpoint of the other stage, or of another project."""
    found = checkpoint.get("stage")
    if found != stage:
        made_by = f"was made by {COMMANDS[found]}" if found in COMMANDS else "is not ours"
        raise ValueError(
            f"{source} {made_by}, but {COMMANDS[stage]} needs one of its own; check --ckpt_path."
        )


def read_parts(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the descriptions of a checkpoint's parts, and the sampling defaults, by name."""
    parts = checkpoint.get("parts")
    if parts is None and isinstance(checkpoint.get("networks"), dict):
        parts = checkpoint["networks"] | older_settings(checkpoint)
    if not isinstance(parts, dict):
        raise ValueError("The file is no checkpoint of ours: it does not describe its networks.")
    return parts


def older_settings(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Describe schedule and target of a checkpoint from before generators described themselves."""
    found = checkpoint.get("diffusion")
    if found is None:
        return {}
    known = ("beta_start", "beta_end", "timesteps", "target", "classes")
    if not isinstance(found, dict) or not found.keys() >= set(known):
        raise ValueError(
            "The file does not say what its network predicts and on which noise schedule; take a "
            "checkpoint that `ardiff-dit fit` wrote."
        )
    return {
        "schedule": {"class": "NoiseSchedule", "arguments": {k: found[k] for k in known[:3]}},
        "target": {"class": found["target"], "arguments": {}},
        "classes": found["classes"],
    }
