"""Parts of a generator as data: class and arguments to be built again, and weights to take over.

What a file says is data. Only the classes of one table are built, from numbers and texts of
sensible size, so that a file can neither name code to run nor ask for more memory than there is.
"""

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import DDIM, DPMSolver2M, PublishedDDIM
from ardiffusion.diffusion.target import X0, Epsilon, Velocity
from ardiffusion.diffusion.timesteps import (
    FoPP,
    Independent,
    Mixture,
    NonDecreasing,
    PlanRows,
    StepRows,
    StratifiedFoPP,
    Synchronous,
)
from ardiffusion.nn.arvae import ARVAE, PublishedARVAE
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.grid import GridVAE
from ardiffusion.nn.joint import JointDiT
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.nn.shares import class_of

PARTS: dict[str, type] = {
    part.__name__: part
    for part in (
        *(ARVAE, PublishedARVAE, GridVAE, ARDiT, JointDiT, PublishedDiT),
        *(NoiseSchedule, X0, Epsilon, Velocity, DDIM, DPMSolver2M, PublishedDDIM),
        *(FoPP, StratifiedFoPP, NonDecreasing, Independent, Synchronous),
        *(PlanRows, StepRows, Mixture),
    )
}
LARGEST = 1 << 20  # no width, length or number of classes comes near it
DEEPEST = 1000  # blocks of a network, which are built one by one, and entries of a list
# What constructors raise over arguments that do not fit.
UNFIT = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
Network = TypeVar("Network", bound=nn.Module)


def describe(part: object) -> dict[str, Any]:
    """Return class name and constructor arguments, read from attributes of the same names.

    Of classes that are not in the table, which nothing builds again, the name is all there is.
    """
    name = class_of(part).__name__
    known = PARTS.get(name) is class_of(part)
    arguments = inspect.signature(PARTS[name]).parameters if known else ()
    return {
        "class": name,
        "arguments": {key: describe_value(getattr(part, key)) for key in arguments},
    }


def unknown(*parts: object) -> list[str]:
    """Name the classes of parts that nothing builds again, as they are not in the table."""
    return [each.__name__ for each in map(class_of, parts) if PARTS.get(each.__name__) is not each]


def describe_value(value: object) -> object:
    if isinstance(value, list | tuple):
        return [describe_value(item) for item in value]
    return value if isinstance(value, int | float | str | dict | None) else describe(value)


def build(description: Any) -> Any:  # noqa: ANN401 read from a file
    """Build what `describe` returned, as a file gave it back; networks without memory for weights.

    Raises:
        ValueError: If it describes none of the parts in the table, or one that cannot be built.
    """
    if not isinstance(description, dict) or not {"class", "arguments"} <= description.keys():
        raise ValueError("The file does not describe a network: it lacks class or arguments.")
    name, arguments = description["class"], description["arguments"]
    if not isinstance(name, str) or name not in PARTS:
        raise ValueError(f"The file asks for {name!r}: only {', '.join(PARTS)} are known.")
    try:
        check_arguments(arguments)
        given = {key: build_value(value) for key, value in arguments.items()}
        with torch.device("meta" if issubclass(PARTS[name], nn.Module) else "cpu"):
            return PARTS[name](**given)
    except UNFIT as e:
        raise ValueError(f"{name} cannot be built: {e}") from e


def build_value(value: object) -> object:
    if isinstance(value, list):
        return [build_value(item) for item in value]
    return build(value) if isinstance(value, dict) else value


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


def assign_weights(
    network: Network,
    weights: Mapping[str, Tensor],
    names: Mapping[str, str] | None = None,
) -> Network:
    """Make `weights` the network's own, all of them and nothing else, uncopied.

    The network may have been built on the meta device; `names` says what each of its entries is
    called in the file, where that is another name. Every fault is named.
    """
    own = network.state_dict()
    names = names or {name: name for name in own}
    found = {n: weights[names[n]] for n in own if names[n] in weights}
    wrong = [
        f"{names[n]} of shape {list(value.shape)} instead of {list(own[n].shape)} ({value.dtype})"
        for n, value in found.items()
        if not isinstance(value, Tensor)
        or value.shape != own[n].shape
        or value.is_floating_point() != own[n].is_floating_point()
    ]
    faults = {
        "it lacks": [names[n] for n in own if n not in found],
        "it has in surplus": sorted(set(weights) - set(names.values())),
        "it holds": wrong,
    }
    listed = [f"{fault} {', '.join(entries)}" for fault, entries in faults.items() if entries]
    if listed:
        found = type(network).__name__
        raise ValueError(f"The file does not fit {found}: {'; '.join(listed)}.")
    state = {n: v.float() if v.is_floating_point() else v for n, v in found.items()}
    network.load_state_dict(state, strict=True, assign=True)
    return network
