"""The context tokens of the published transformer: where they come from and whom they see."""

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn


class SharedContext(nn.Module):
    """One context for all samples; "no condition" is a context of zeros.

    Args:
        context: Number of context tokens.
        width: Numbers per context token.
    """

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(context, width))
        nn.init.normal_(self.table, std=0.1)

    def forward(self, batch: int, label: Tensor | None, null: Tensor | None) -> Tensor:
        """Return context tokens (B, N, width), given samples without condition, bool (B,)."""
        table = repeat(self.table, "n c -> b n c", b=batch)
        return table if null is None else table.masked_fill(null[:, None, None], 0.0)


class ClassContext(nn.Module):
    """One context per class; "no condition" is the context of class 0.

    The published table has a row more than there are classes, and its last row is never used:
    the row meant for "no condition" is shared with the first class.

    Args:
        classes: Number of classes.
        context: Number of context tokens.
        width: Numbers per context token.
    """

    def __init__(self, classes: int, context: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(classes + 1, context, width))
        nn.init.normal_(self.table, std=0.1)

    def forward(self, batch: int, label: Tensor | None, null: Tensor | None) -> Tensor:
        """Return context tokens (B, N, width) of labels (B,), negative for "no condition"."""
        if label is None:
            return repeat(self.table[0], "n c -> b n c", b=batch)
        row = label.clamp(min=0)
        return self.table[row if null is None else row.masked_fill(null, 0)]


def context_mask(
    context: int, frames: int, tokens: int, causal: bool, open_context: bool, device: torch.device
) -> Tensor | None:
    """Say which token sees which, context tokens first, then the frames.

    Args:
        context: Number of context tokens.
        frames: Number of frames F.
        tokens: Tokens per frame L.
        causal: Whether a frame sees no later frame.
        open_context: Whether context tokens see the frames.
        device: Where the mask shall live.

    Returns:
        True where attention is allowed, shape (context + F L, context + F L); `None` if
        everything is.
    """
    if open_context and not causal:
        return None
    index = repeat(torch.arange(frames, device=device), "f -> (f l)", l=tokens)
    index = F.pad(index, (context, 0), value=-1)  # the context counts as frame -1
    query, key = index[:, None], index[None, :]
    mask = (key <= query) | (not causal)
    return torch.where(query < 0, (key < 0) | open_context, mask)
