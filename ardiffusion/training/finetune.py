"""Fine-tuning: a generator made by someone else goes on with other videos."""

from collections.abc import Sequence
from typing import Any

import torch

from ardiffusion.hub import load_parts
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.weights.description import describe


def check_given(start: str | None, arvae: str | None, **parts: object) -> None:
    """Raise unless either a generator is given to go on with, or what one is made of."""
    given = [name for name, part in parts.items() if part is not None]
    if start and given:
        raise ValueError(f"--model.start brings its own {given[0]}: leave out --model.{given[0]}.")
    if not start and ("dit" not in given or arvae is None):
        missing = "arvae, the AR-VAE's weights" if "dit" in given else "dit, the network"
        raise ValueError(f"Stage 2 needs --model.{missing}; start from a config as dit.yaml.")


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
