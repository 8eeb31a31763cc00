"""Strict loading: networks take over given tensors, all of them and nothing else, uncopied."""

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def assign_weights(
    network: Network,
    weights: Mapping[str, Tensor],
    source: str,
    names: Mapping[str, str] | None = None,
) -> Network:
    """Make `weights` the network's own; the network may have been built on the meta device.

    Args:
        network: The network.
        weights: Tensors by their names in the file.
        source: Where the weights come from, for error messages.
        names: The name in the file of each of the network's entries, where it is another one.

    Raises:
        ValueError: If entries are missing, surplus or of another kind; it names each of them.
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
        raise ValueError(f"{source} does not fit {type(network).__name__}: {'; '.join(listed)}.")
    state = {n: v.float() if v.is_floating_point() else v for n, v in found.items()}
    network.load_state_dict(state, strict=True, assign=True)
    return network
