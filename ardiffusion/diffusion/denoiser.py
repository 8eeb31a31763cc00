"""What the sampler asks of a network."""

from typing import Any, Protocol

import torch
from torch import Tensor


class Cache(Protocol):
    """What a network keeps during a run."""

    def advance(self, frames: int) -> None:
        """Keep the first `frames` of the frames that were computed last."""
        ...


class Denoiser(Protocol):
    """What the sampler asks of a network.

    A frame attends to `window` frames, itself included. A `strictly_causal` network computes a
    frame from itself and earlier frames alone, and its cache keeps what finished frames tell
    later ones; the cache of any network may hold what stays the same during a run. A
    `conditional` network can be evaluated with and without its condition.
    """

    @property
    def window(self) -> int: ...

    @property
    def strictly_causal(self) -> bool: ...

    @property
    def conditional(self) -> bool: ...

    def __call__(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        label: Tensor | None = None,
        null: Tensor | None = None,
        cache: Any = None,  # noqa: ANN401 what make_cache returned
    ) -> Tensor:
        """Predict from x_t (B, F, L, C) and t (B, F); rows where `null` (B,) go unconditioned."""
        ...

    def make_cache(
        self,
        *,
        batch: int,
        frames: int,
        device: torch.device,
        timesteps: Tensor | None = None,
        label: Tensor | None = None,
        null: Tensor | None = None,
        static: bool = False,
    ) -> Cache:
        """Return an empty cache for at most `frames` frames at once.

        `timesteps` are all that the run will ask for. A `static` cache takes part in computations
        whose shapes and addresses stay the same in every call.
        """
        ...
