"""Strict loading: networks take over given tensors, all of them and nothing else, uncopied."""

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def assign_weights(
    network: Network, weights: Mapping[str, Tensor], names: Mapping[str, str], source: str
) -> Network:
    """Make `weights` the network's own; the network may have been built on the meta device.

    Args:
        network: The network.
        weights: Tensors by their names in the file.
        names: The name in the file of each of the network's entries.
        source: Where the weights come from, for error messages.

    Raises:
        ValueError: If entries are missing, surplus or of another shape; it names each of them.
    """
    own = network.state_dict()
    missing = [names[n] for n in own if names[n] not in weights]
    surplus = sorted(set(weights) - set(names.values()))
    wrong = [
        f"{names[n]} of shape {list(weights[names[n]].shape)} instead of {list(value.shape)}"
        for n, value in own.items()
        if names[n] in weights and weights[names[n]].shape != value.shape
    ]
    faults = {"it lacks": missing, "it has in surplus": surplus, "it holds": wrong}
    listed = [f"{fault} {', '.join(found)}" for fault, found in faults.items() if found]
    if listed:
        raise ValueError(f"{source} does not fit {type(network).__name__}: {'; '.join(listed)}.")
    state = {n: weights[names[n]] for n in own}
    floats = {n: v.float() if v.is_floating_point() else v for n, v in state.items()}
    network.load_state_dict(floats, strict=True, assign=True)
    return network
