"""Puts the description of a generator into checkpoints, and starts from the weights of others.

What the description says is `Generator.describe`. Fine-tuning goes on with other videos where
someone else's generator has ended. Which checkpoint a run goes on from is decided in `cli.py`, and
where within its epoch by its loader, in `data/loader.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ardiffusion.hub import load_arvae, load_parts
from ardiffusion.nn.autoencoder import Autoencoder
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.weights.checkpoint import check_stage, read_parts
from ardiffusion.weights.description import PARTS, describe


def describe_into(checkpoint: dict[str, Any], stage: str, parts: dict[str, Any]) -> None:
    """Add the stage and the descriptions of all parts to a checkpoint."""
    checkpoint["stage"], checkpoint["parts"] = stage, parts
    # What a checkpoint says is data: it is built by its descriptions and by nothing else.
    checkpoint.pop("hyper_parameters", None)


def check_fits(checkpoint: dict[str, Any], stage: str, **parts: object) -> dict[str, Any]:
    """Refuse a checkpoint of the other stage, or one whose parts are not these; return its own."""
    check_stage(checkpoint, stage=stage)
    found = read_parts(checkpoint)
    for name, part in parts.items():
        theirs, ours = found.get(name), describe(part)
        if not isinstance(theirs, dict):
            raise ValueError(f"The checkpoint does not describe its {name}; check --ckpt_path.")
        pairs = {"class": (theirs.get("class"), ours["class"])}
        arguments = theirs.get("arguments") or {}
        for argument, value in ours["arguments"].items():
            pairs[argument] = (arguments.get(argument, value), value)
        for what, (there, here) in pairs.items():
            if there != here:
                raise ValueError(
                    f"The checkpoint's {name} has {what} {there}, the configured one {here}; "
                    f"correct --model.{name} or --ckpt_path."
                )
    return found


def init_from(arvae: Autoencoder, source: str) -> None:
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


def spell(value: Any) -> Any:  # noqa: ANN401 plain values and descriptions of parts
    """Spell a described part, or a plain value, as the command line: class_path and init_args."""
    if isinstance(value, list):
        return [spell(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = PARTS.get(str(value.get("class")))
    if kind is None:
        known = ", ".join(PARTS)
        raise ValueError(
            f"The checkpoint asks for {value.get('class')!r}: only {known} are known."
        )
    arguments = {name: spell(item) for name, item in dict(value.get("arguments") or {}).items()}
    return {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": arguments}


def check_given(start: str | None, arvae: str | None, **parts: object) -> None:
    """Raise unless either a generator is given to go on with, or what one is made of."""
    given = [name for name, part in parts.items() if part is not None]
    if start and given:
        raise ValueError(f"--model.start brings its own {given[0]}: leave out --model.{given[0]}.")
    if not start and ("dit" not in given or arvae is None):
        missing = "arvae, the AR-VAE's weights" if "dit" in given else "dit, the network"
        raise ValueError(
            f"Stage 2 needs --model.{missing}, or --model.start, a generator to go on with; begin "
            "with a config as dit.yaml or finetune.yaml."
        )


def start_from(source: str, arvae: str | None, data: object) -> dict[str, Any]:
    """Load the arguments of a `Generator` that is to learn from other data, classes aside.

    The classes of the data are passed over by a network without classes.
    """
    parts = load_parts(source, arvae=arvae)
    classes, frames = getattr(data, "classes", []), getattr(data, "frames", 1)
    network, names = parts["dit"], parts.pop("classes")
    if network.classes and not classes:
        raise ValueError(
            f"{source} has {network.classes} classes, but the data names none: put the videos "
            "into one folder per class below --data.root, a single one will do."
        )
    after = list(classes) if network.classes else []
    before = names or [str(label) for label in range(network.classes)]
    return parts | {"dit": fit_network(network, before=before, after=after, frames=frames)}


def fit_network(
    network: ARDiT | PublishedDiT, before: Sequence[str], after: Sequence[str], frames: int
) -> ARDiT | PublishedDiT:
    """Copy a network into one with other classes, and with room for longer clips.

    Rows of classes are kept by name, and that of "no class"; those of new classes begin afresh.
    """
    arguments = dict(describe(network)["arguments"])
    if after:
        arguments["classes"] = len(after)
    if isinstance(network, PublishedDiT):  # its positions, which end with the window, go on
        arguments["frames"] = max(frames, network.frames)
    fitted = type(network)(**arguments)
    ours, theirs = fitted.class_table, network.class_table
    weights = {name: value for name, value in network.named_parameters() if value is not theirs}
    fitted.load_state_dict(weights, strict=False)
    if ours is None or theirs is None:
        return fitted
    with torch.no_grad():
        ours[-1] = theirs[-1]
        for row, name in enumerate(after):
            if name in before:
                ours[row] = theirs[before.index(name)]
    return fitted
