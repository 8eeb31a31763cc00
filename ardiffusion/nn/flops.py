"""Floating-point operations of the networks that stage 2 trains: 2 per multiply-add of a product.

Norms, activations and rotations are left out. Attention counts as it is computed: pairs of tokens
that a mask hides too.
"""

from functools import singledispatch

from torch import nn

from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.published import PublishedDiT

TRAINING = 3  # forward passes that a forward and a backward pass take


@singledispatch
def flops(dit: nn.Module, frames: int) -> int | None:
    """Count the operations of a forward pass over one clip; None for networks not known here."""
    return None


@flops.register
def _(dit: ARDiT, frames: int) -> int:
    tokens = frames * dit.tokens
    per_frame = condition_weights(dit) + dit.modulation.weight.numel()
    per_token = dit.embed.weight.numel() + dit.out.weight.numel()
    return 2 * (per_frame * frames + per_token * tokens) + blocks(
        dit, tokens=tokens, pairs=window_pairs(frames, dit.window) * dit.tokens**2
    )


@flops.register
def _(dit: PublishedDiT, frames: int) -> int:
    tokens = frames * dit.tokens
    context = dit.context * dit.embed_context.weight.numel()
    per_token = dit.embed.weight.numel() + dit.out.weight.numel()
    products = context + condition_weights(dit) * frames + per_token * tokens
    tokens += dit.context
    return 2 * products + blocks(dit, tokens=tokens, pairs=tokens**2)


def frame_flops(dit: ARDiT) -> int:
    """Count the operations of one frame behind a full window in the cache."""
    return blocks(dit, tokens=dit.tokens, pairs=dit.window * dit.tokens**2)


def condition_weights(dit: ARDiT | PublishedDiT) -> int:
    """Count the weights that a frame's timestep meets: its embedding and all modulations."""
    embedding = dit.time.hidden.weight.numel() + dit.time.out.weight.numel()
    return embedding + dit.depth * 6 * dit.width**2


def window_pairs(frames: int, window: int) -> int:
    """Count the pairs of frames that attention multiplies, as `Uncached` divides them."""
    firsts = range(0, frames, window)
    ends = [min(first + window, frames) for first in firsts]
    starts = [max(first - window + 1, 0) for first in firsts]
    return sum((e - f) * (e - s) for f, e, s in zip(firsts, ends, starts, strict=True))


def blocks(dit: ARDiT | PublishedDiT, tokens: int, pairs: int) -> int:
    """Count the operations of all blocks on tokens, of which so many pairs are multiplied."""
    linear = 12 * dit.width**2  # of a token: 3 to project, 1 to merge, 4 + 4 in the MLP
    attention = 2 * dit.width  # of a pair: its score, and the value that it weighs
    return 2 * dit.depth * (tokens * linear + pairs * attention)
