"""Floating-point operations of the networks that stage 2 trains: 2 per multiply-add of a product.

torch counts them on the meta device, where nothing is computed. Norms, activations and rotations
are left out. Attention counts as it is computed: pairs of tokens that a mask hides too.
"""

import inspect
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.nn.shares import class_of

TRAINING = 3  # forward passes that a forward and a backward pass take
Network = ARDiT | PublishedDiT


def flops(dit: nn.Module, frames: int) -> int | None:
    """Count the operations of a forward pass over one clip; None for networks not known here."""
    if not isinstance(dit, Network):
        return None
    return clip_flops(class_of(dit), sizes=sizes_of(dit), frames=frames)


@cache
def clip_flops(kind: type[Network], sizes: tuple[tuple[str, Any], ...], frames: int) -> int:
    """Count once for all networks of a kind and some sizes."""
    with torch.device("meta"):
        return counted(kind(**dict(sizes)), frames=frames)["Global"]


def sizes_of(dit: Network) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (name, getattr(dit, name)) for name in inspect.signature(class_of(dit)).parameters
    )


def counted(dit: Network, frames: int, cache: Any = None) -> dict[str, int]:  # noqa: ANN401
    """Evaluate some frames on the default device; return the operations of every module."""
    x, t = torch.empty(1, frames, dit.tokens, dit.channels), torch.zeros(1, frames).long()
    # The fused kernel of a CPU is not in the counter's table, its two products are.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        dit(x, t, cache=cache)
    return {name: sum(found.values()) for name, found in counter.get_flop_counts().items()}
