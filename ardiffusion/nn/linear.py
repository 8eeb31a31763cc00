"""Linear layers that begin with outputs of a known size."""

from torch import nn


def linear(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    """Make a layer that maps independent inputs of unit variance to outputs of variance gain^2."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=gain * inputs**-0.5)
    nn.init.zeros_(layer.bias)
    return layer
