"""How linear layers begin: with outputs of a known size, or as those of a DiT.

What a linear layer is given must be contiguous, or torch may multiply by as many copies of the
weight as there are rows in the batch.
"""

from collections.abc import Iterable

from torch import nn


def linear(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    """Make a layer that maps independent inputs of unit variance to outputs of variance gain^2."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=gain * inputs**-0.5)
    nn.init.zeros_(layer.bias)
    return layer


def begin_as_dit(
    network: nn.Module, small: Iterable[nn.Linear], zero: Iterable[nn.Linear]
) -> None:
    """Initialise as DiT does: layers that embed timesteps small, gates and outputs at zero."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for layer in small:
        nn.init.normal_(layer.weight, std=0.02)
    for layer in zero:
        nn.init.zeros_(layer.weight)
