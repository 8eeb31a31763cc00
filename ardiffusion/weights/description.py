"""Networks as data: their class and constructor arguments, to be built again from a file.

Only the classes of one table can be built, so that a file can name nothing else.
"""

import inspect
from typing import Any

from torch import nn

from ardiffusion.nn.arvae import ARVAE, PublishedARVAE
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.grid import GridVAE
from ardiffusion.nn.joint import JointDiT
from ardiffusion.nn.published import PublishedDiT

NETWORKS: dict[str, type[nn.Module]] = {
    network.__name__: network
    for network in (ARVAE, PublishedARVAE, GridVAE, ARDiT, JointDiT, PublishedDiT)
}


def describe(network: nn.Module) -> dict[str, Any]:
    """Return class name and constructor arguments, read from attributes of the same names.

    Of classes that are not in the table, which nothing builds again, the name is all there is.
    """
    name = type(network).__name__
    arguments = inspect.signature(NETWORKS[name]).parameters if name in NETWORKS else ()
    return {"class": name, "arguments": {key: getattr(network, key) for key in arguments}}


def build(description: dict[str, Any]) -> nn.Module:
    """Build a network from its description.

    Raises:
        ValueError: If the description names a class that is not in the table.
    """
    name = description.get("class")
    if name not in NETWORKS:
        known = ", ".join(NETWORKS)
        raise ValueError(f"Cannot build a network of class {name!r}: only {known} are known.")
    return NETWORKS[name](**description["arguments"])
