import math
from typing import Any

import pytest
from torch import nn

from ardiffusion.nn.arvae import ARVAE
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.grid import GridVAE
from ardiffusion.nn.joint import JointDiT
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.nn.sizes import check_range


def test_numbers_out_of_bounds_are_named_and_none_is_no_number() -> None:
    check_range("{}", 1, 2.5, sizes=1, steps=2.5, nothing=None)
    for value in (0, -1, math.nan, -math.inf):
        with pytest.raises(ValueError, match=f"steps must be at least 1, got {value}"):
            check_range("{}", 1, sizes=1, steps=value)
    for value in (2.6, math.inf):
        with pytest.raises(ValueError, match=rf"--steps must be at most 2\.5, got {value}"):
            check_range("--{}", 1, 2.5, steps=value)


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
