"""Training timesteps: how the noise levels t (B, F) of a clip's frames are drawn.

AR-Diffusion's FoPP (frame-oriented probability propagation, paper section 3.3) draws a frame f
and its timestep t_f uniformly; given the pair, all non-decreasing completions are equally likely:
the f frames before are a uniformly random sorted multiset from {0 .. t_f}, the frames after one
from {t_f .. T - 1}. The paper counts sequences in two tables; a uniform multiset of m values is
also what Polya's urn gives (draw i copies an earlier draw with probability i / (m + i)), and that
needs neither tables nor large numbers.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor


@cache
def on_device(values: tuple[float, ...], device: torch.device | str) -> Tensor:
    """Return numbers as a tensor, copied to the device once: copying makes the CPU wait."""
    return torch.tensor(values, device=device)


def urn(values: Tensor | int, start: Tensor | int, uniform: Tensor) -> Tensor:
    """Draw uniformly random multisets by Polya's urn, unsorted.

    Args:
        values: Number of values m that a frame chooses from, broadcastable to (B, F).
        start: First frame of the multiset that a frame belongs to, broadcastable to (B, F).
        uniform: Numbers in [0, 1), float64, shape (B, F).

    Returns:
        Values in [0, m), shape (B, F), int64.
    """
    frames = uniform.shape[1]
    f = torch.arange(frames, device=uniform.device)  # (F,)
    ball = (uniform * (values + f - start)).long()  # (B, F)
    parent = torch.where(ball < values, f, start + ball - values)
    for _ in range((frames - 1).bit_length()):  # copies of copies: halve the chains
        parent = parent.gather(dim=1, index=parent)
    return ball.gather(dim=1, index=parent)


class Timesteps(ABC):
    """Draws the timesteps of a batch of clips."""

    @abstractmethod
    def __call__(
        self,
        batch: int,
        frames: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Return timesteps in [0, T), shape (B, F), int64."""


class FoPP(Timesteps):
    """Frame-oriented probability propagation, exact in closed form for any number of frames.

    References:
        AR-Diffusion (Sun et al., CVPR 2025), section 3.3.

    Args:
        timesteps: Number of training timesteps T.
    """

    def __init__(self, timesteps: int = 1000) -> None:
        self.timesteps = timesteps

    def __call__(
        self,
        batch: int,
        frames: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        def uniform(*size: int) -> Tensor:
            return torch.rand(size, dtype=torch.float64, generator=generator, device=device)

        pivot = (uniform(batch, 1) * frames).long()  # (B, 1)
        t_pivot = (uniform(batch, 1) * self.timesteps).long()  # (B, 1)
        f = torch.arange(frames, device=device)  # (F,)
        after = f > pivot  # (B, F)
        start = torch.where(after, pivot + 1, 0)  # first frame of a frame's side
        offset = torch.where(after, t_pivot, 0)
        values = torch.where(after, self.timesteps - t_pivot, t_pivot + 1)  # m
        t = offset + urn(values, start=start, uniform=uniform(batch, frames))
        return torch.where(f == pivot, t_pivot, t).sort(dim=1).values


class NonDecreasing(Timesteps):
    """All non-decreasing sequences of timesteps equally likely, without FoPP's pivot frame.

    Of C(T + F - 1, F) sequences almost all climb evenly from 0 to T - 1: frame f follows a beta
    distribution around T (f + 1) / (F + 1), so that the longer the clip, the fewer timesteps a
    frame is trained at. FoPP's uniform pivot repairs that (paper, section 3.3).

    Args:
        timesteps: Number of training timesteps T.
    """

    def __init__(self, timesteps: int = 1000) -> None:
        self.timesteps = timesteps

    def __call__(
        self,
        batch: int,
        frames: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        size = (batch, frames)
        uniform = torch.rand(size, dtype=torch.float64, generator=generator, device=device)
        return urn(self.timesteps, start=0, uniform=uniform).sort(dim=1).values


class Independent(Timesteps):
    """Every frame on its own, uniformly: Diffusion Forcing (Chen et al., 2024).

    Args:
        timesteps: Number of training timesteps T.
    """

    def __init__(self, timesteps: int = 1000) -> None:
        self.timesteps = timesteps

    def __call__(
        self,
        batch: int,
        frames: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        size = (batch, frames)
        return torch.randint(self.timesteps, size=size, generator=generator, device=device)


class Synchronous(Timesteps):
    """One timestep for all frames of a clip: ordinary video diffusion.

    Args:
        timesteps: Number of training timesteps T.
    """

    def __init__(self, timesteps: int = 1000) -> None:
        self.timesteps = timesteps

    def __call__(
        self,
        batch: int,
        frames: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        size = (batch, 1)
        t = torch.randint(self.timesteps, size=size, generator=generator, device=device)
        return t.expand(batch, frames)


class PlanRows(Timesteps):
    """Rows of AD plans, as sampling feeds them: clean frames, a ramp, then pure noise.

    The difference s is drawn from `differences`, the iteration uniformly; between two steps the
    ramp's phase is uniform, so that all T timesteps are visited.

    Args:
        timesteps: Number of training timesteps T.
        steps: Number of sampling steps S that the differences refer to.
        differences: Differences s to draw from; all of 1 .. S when empty.
    """

    def __init__(
        self, timesteps: int = 1000, steps: int = 50, differences: Sequence[int] = ()
    ) -> None:
        if any(not 0 <= s <= steps for s in differences):
            raise ValueError(f"differences must lie in 0 to {steps}, got {list(differences)}.")
        self.timesteps = timesteps
        self.steps = steps
        self.differences = list(differences) or list(range(1, steps + 1))

    def __call__(
        self,
        batch: int,
        frames: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        choices = on_device(tuple(self.differences), device or torch.get_default_device())
        size = (batch, 1)
        choice = torch.randint(len(choices), size=size, generator=generator, device=device)
        s = choices[choice]  # (B, 1)
        u = torch.rand(size, dtype=torch.float64, generator=generator, device=device)
        iteration = u * (self.steps + s * (frames - 1))  # (B, 1)
        k = (iteration - s * torch.arange(frames, device=device)).clamp(0, self.steps)  # (B, F)
        t = self.timesteps * (1 - k / self.steps)
        return t.ceil().long().sub(1).clamp(min=0)


class Mixture(Timesteps):
    """Each clip of a batch takes its timesteps from one of several samplers.

    Args:
        samplers: The samplers to mix.
        weights: One positive weight per sampler; they need not sum to 1.
    """

    def __init__(self, samplers: list[Timesteps], weights: list[float]) -> None:
        if not samplers or len(samplers) != len(weights) or min(weights) <= 0:
            raise ValueError(
                f"Mixture needs one positive weight per sampler, got {len(samplers)} samplers "
                f"and weights {weights}."
            )
        self.samplers = samplers
        self.weights = weights

    def __call__(
        self,
        batch: int,
        frames: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        weights = on_device(tuple(self.weights), device or torch.get_default_device())
        choice = torch.multinomial(
            weights, num_samples=batch, replacement=True, generator=generator
        )  # (B,)
        t = torch.stack(
            [draw(batch, frames, generator=generator, device=device) for draw in self.samplers]
        )  # (samplers, B, F)
        return t[choice, torch.arange(batch, device=device)]
