"""Who sees whom: frames see themselves and at most `window - 1` earlier frames."""

import torch
from einops import repeat
from torch import Tensor


def causal_mask(
    queries: int, keys: int, tokens: int, window: int, device: torch.device
) -> Tensor | None:
    """Say which token sees which: its own frame and at most `window - 1` earlier ones.

    Args:
        queries: Number of frames that ask; they are the last of the frames that are asked.
        keys: Number of frames that are asked.
        tokens: Tokens per frame L.
        window: Frames a frame sees, itself included.
        device: Where the mask shall live.

    Returns:
        True where attention is allowed, shape (queries L, keys L); `None` if everything is.
    """
    if queries == 1 and keys <= window:
        return None
    key = torch.arange(keys, device=device)
    return frame_mask(key[keys - queries :], key, tokens=tokens, window=window)


def frame_mask(query: Tensor, key: Tensor, tokens: int, window: int) -> Tensor:
    """Do as `causal_mask` for frames of any indices, shapes (queries,) and (keys,)."""
    distance = query[:, None] - key[None, :]  # (queries, keys)
    mask = (distance >= 0) & (distance < window)
    return repeat(mask, "q k -> (q l) (k m)", l=tokens, m=tokens)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a mask into what is added to the scores: 0 where it is true, else -inf."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))
