"""Parts of a generator as data: their class and constructor arguments, to be built again.

What a file says is data. Only the classes of one table are built, from numbers and texts of
sensible size, so that a file can neither name code to run nor ask for more memory than there is.
"""

import inspect
from typing import Any

import torch
from torch import nn

from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import DDIM, DPMSolver2M, PublishedDDIM
from ardiffusion.diffusion.target import X0, Epsilon, Velocity
from ardiffusion.diffusion.timesteps import (
    FoPP,
    Independent,
    Mixture,
    NonDecreasing,
    PlanRows,
    Synchronous,
)
from ardiffusion.nn.arvae import ARVAE, PublishedARVAE
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.grid import GridVAE
from ardiffusion.nn.joint import JointDiT
from ardiffusion.nn.published import PublishedDiT

PARTS: dict[str, type] = {
    part.__name__: part
    for part in (
        *(ARVAE, PublishedARVAE, GridVAE, ARDiT, JointDiT, PublishedDiT),
        *(NoiseSchedule, X0, Epsilon, Velocity, DDIM, DPMSolver2M, PublishedDDIM),
        *(FoPP, NonDecreasing, Independent, Synchronous, PlanRows, Mixture),
    )
}
LARGEST = 1 << 20  # no width, length or number of classes comes near it
DEEPEST = 1000  # blocks of a network, which are built one by one, and entries of a list


def describe(part: object) -> dict[str, Any]:
    """Return class name and constructor arguments, read from attributes of the same names.

    Of classes that are not in the table, which nothing builds again, the name is all there is.
    """
    name = type(part).__name__
    known = PARTS.get(name) is type(part)
    arguments = inspect.signature(PARTS[name]).parameters if known else ()
    return {
        "class": name,
        "arguments": {key: describe_value(getattr(part, key)) for key in arguments},
    }


def describe_value(value: object) -> object:
    """Describe an argument, which may be a part of its own or a list of some."""
    if isinstance(value, list | tuple):
        return [describe_value(item) for item in value]
    return describe(value) if type(value) in PARTS.values() else value


def build(description: Any, source: str) -> Any:  # noqa: ANN401 read from a file
    """Build a described part; networks without memory for their weights.

    Args:
        description: What `describe` returned, as a file gave it back.
        source: The file, for error messages.

    Raises:
        ValueError: If it describes none of the parts in the table, or one that cannot be built.
    """
    if not isinstance(description, dict) or not {"class", "arguments"} <= description.keys():
        raise ValueError(f"{source} does not describe a network: it lacks class or arguments.")
    name, arguments = description["class"], description["arguments"]
    if not isinstance(name, str) or name not in PARTS:
        raise ValueError(f"{source} asks for {name!r}: only {', '.join(PARTS)} are known.")
    try:
        check_arguments(arguments)
        given = {key: build_value(value, source=source) for key, value in arguments.items()}
        with torch.device("meta" if issubclass(PARTS[name], nn.Module) else "cpu"):
            return PARTS[name](**given)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as e:
        raise ValueError(f"{source}: {name} cannot be built: {e}") from e


def build_value(value: object, source: str) -> object:
    """Build an argument that describes a part, or a list of some; others are as they are."""
    if isinstance(value, list):
        return [build_value(item, source=source) for item in value]
    return build(value, source=source) if isinstance(value, dict) else value


def check_arguments(arguments: object) -> None:
    """Refuse arguments of sizes that no part has."""
    if not isinstance(arguments, dict):
        raise ValueError("its arguments are no table")
    for name, value in arguments.items():
        limit = DEEPEST if name in ("depth", "layers") else LARGEST
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not abs(number) <= limit:
                raise ValueError(f"{name} {number} is beyond all reason, more than {limit}")
        if isinstance(value, list) and len(value) > DEEPEST:
            raise ValueError(f"{name} has {len(value)} entries, more than {DEEPEST}")
