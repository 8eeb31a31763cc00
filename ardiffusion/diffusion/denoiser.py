"""What the sampler asks of a network, and guidance as such a network around one.

With y the output under the condition and y_0 without it, classifier-free guidance (Ho and
Salimans, 2022) is y_0 + w (y - y_0).
"""

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
        sink: int = 0,
    ) -> Cache:
        """Return an empty cache for at most `frames` frames at once.

        `timesteps` (K,) are all that the run will ask for, rising; label and null (B,) are those
        of its calls. A `static` cache takes part in computations whose shapes and addresses stay
        the same in every call, as CUDA graphs need. The first `sink` frames are among the `window`
        of every frame; only a strictly causal network is asked for any.
        """
        ...


class Guided:
    """A network guided by its condition, evaluated with and without it in one batch.

    The scale is the strength w: 1 is the network itself, 0 the network without its condition.
    """

    conditional = False

    def __init__(self, denoiser: Denoiser, scale: float) -> None:
        if not denoiser.conditional:
            raise ValueError(f"guidance {scale} needs a network with a condition; use guidance 1.")
        self.denoiser, self.scale = denoiser, scale
        self.window, self.strictly_causal = denoiser.window, denoiser.strictly_causal

    def __call__(self, x_t: Tensor, t: Tensor, **given: Any) -> Tensor:  # noqa: ANN401
        given = both_halves(given, batch=len(x_t), device=x_t.device)
        output = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), **given)
        without, guiding = output.to(x_t.dtype).chunk(2)
        return without + self.scale * (guiding - without)

    def make_cache(self, *, batch: int, device: torch.device, **given: Any) -> Cache:  # noqa: ANN401
        given = both_halves(given, batch=batch, device=device)
        return self.denoiser.make_cache(batch=2 * batch, device=device, **given)


def both_halves(given: dict[str, Any], batch: int, device: torch.device) -> dict[str, Any]:
    """Repeat a network's labels (B,), and let the first half go without its condition."""
    label, null = given.get("label"), torch.arange(2 * batch, device=device) < batch
    return {**given, "label": None if label is None else torch.cat([label, label]), "null": null}
