from typing import Any

import pytest
from torch import nn

from ardiffusion.nn.arvae import ARVAE
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.grid import GridVAE
from ardiffusion.nn.joint import JointDiT
from ardiffusion.nn.published import PublishedDiT


@pytest.mark.parametrize("network", [ARDiT, JointDiT, PublishedDiT, ARVAE])
@pytest.mark.parametrize("name", ["width", "depth", "heads", "tokens", "channels"])
@pytest.mark.parametrize("size", [0, -2])
def test_sizes_below_1_are_refused(network: type[nn.Module], name: str, size: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {size}"):
        network(**{name: size})


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (PublishedDiT, "frames"),
        (PublishedDiT, "context"),
        (ARVAE, "resolution"),
        (ARVAE, "patch"),
        (ARVAE, "window"),
        (ARVAE, "embedding"),
        (GridVAE, "layers"),
        (GridVAE, "channels"),
        (GridVAE, "groups"),
    ],
)
def test_other_sizes_below_1_are_refused(network: Any, name: str) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        network(**{name: 0})
