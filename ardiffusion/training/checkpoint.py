"""What our checkpoints hold beside Lightning's own: the stage and the networks' constructors."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ardiffusion.hub import load_arvae
from ardiffusion.nn.autoencoder import Autoencoder
from ardiffusion.weights.description import describe

COMMANDS = {"arvae": "ardiff-vae", "dit": "ardiff-dit"}


def pack(checkpoint: dict[str, Any], stage: str, **networks: nn.Module) -> None:
    """Add the stage and a description of each network to a checkpoint."""
    checkpoint["stage"] = stage
    checkpoint["networks"] = {name: describe(network) for name, network in networks.items()}
    # Built objects would be pickled, and could then not be loaded with weights_only=True.
    hyper_parameters = checkpoint.get("hyper_parameters", {})
    for name in [name for name, value in hyper_parameters.items() if not plain(value)]:
        del hyper_parameters[name]


def plain(value: object) -> bool:
    """Say whether a value is made of numbers, strings, lists and dictionaries alone."""
    if isinstance(value, dict):
        return all(plain(v) for v in value.values())
    if isinstance(value, list | tuple):
        return all(plain(v) for v in value)
    return value is None or isinstance(value, bool | int | float | str)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Map a checkpoint into memory, running nothing that it may contain.

    Raises:
        ValueError: If it is no checkpoint, with a sentence that names the file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}; check --ckpt_path.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} is not a whole checkpoint of weights and numbers; check --ckpt_path."
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{path} holds no Lightning checkpoint; check --ckpt_path.")
    return checkpoint


def check_stage(checkpoint: dict[str, Any], stage: str, source: str = "The checkpoint") -> None:
    """Refuse a checkpoint of the other stage, or of another project.

    Args:
        checkpoint: What the checkpoint holds.
        stage: The stage it must be of.
        source: Its name in the sentence.
    """
    found = checkpoint.get("stage")
    if found != stage:
        made_by = f"was made by {COMMANDS[found]}" if found in COMMANDS else "is not ours"
        raise ValueError(
            f"{source} {made_by}, but {COMMANDS[stage]} needs one of its own; check --ckpt_path."
        )


def check_fits(checkpoint: dict[str, Any], stage: str, **networks: nn.Module) -> None:
    """Refuse a checkpoint of the other stage, or one whose networks are not these."""
    check_stage(checkpoint, stage=stage)
    for name, network in networks.items():
        theirs, ours = checkpoint["networks"][name], describe(network)
        pairs = {"class": (theirs["class"], ours["class"])}
        for argument, value in ours["arguments"].items():
            pairs[argument] = (theirs["arguments"].get(argument, value), value)
        for what, (there, here) in pairs.items():
            if there != here:
                raise ValueError(
                    f"The checkpoint's {name} has {what} {there}, the configured one {here}; "
                    f"correct --model.{name} or --ckpt_path."
                )


def load_start(arvae: Autoencoder, source: str) -> None:
    """Start an AR-VAE from other weights; only its temporal blocks may be missing there."""
    start = load_arvae(source)
    if type(start) is not type(arvae):
        raise ValueError(
            f"The weights of {source} are made for {type(start).__name__}; set --model.arvae to "
            f"{type(start).__module__}.{type(start).__name__}."
        )
    given = start.state_dict()
    own = {name: tuple(value.shape) for name, value in arvae.state_dict().items()}
    wrong = [name for name, value in given.items() if tuple(value.shape) != own.get(name)]
    missing = [n for n in own if n not in given and not n.startswith("decoder.temporal.")]
    if wrong or missing:
        name = (wrong + missing)[0]
        raise ValueError(
            f"The weights of {source} do not fit the AR-VAE: {len(wrong + missing)} entries "
            f"differ, {name} first; give the AR-VAE the sizes that they were made with."
        )
    arvae.load_state_dict(given, strict=False)
