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
from typing import NamedTuple

import torch
from torch import Tensor

FLOAT64 = ("cpu", "cuda", "meta")  # devices that know it; Apple's GPUs do not


@cache
def on_device(values: tuple[float, ...], device: torch.device | str) -> Tensor:
    """Return numbers as a tensor, copied to the device once: copying makes the CPU wait."""
    return torch.tensor(values).to(device)


class Dice(NamedTuple):
    """Where random numbers come from, and the device on which they are drawn."""

    generator: torch.Generator | None
    device: torch.device | str

    def uniform(self, *size: int) -> Tensor:
        """Draw numbers in [0, 1), in float64 where the device knows it."""
        exact = torch.device(self.device).type in FLOAT64
        dtype = torch.float64 if exact else torch.float32
        return torch.rand(size, dtype=dtype, generator=self.generator, device=self.device)

    def integers(self, count: int, *size: int) -> Tensor:
        """Draw integers in [0, count)."""
        return torch.randint(count, size, generator=self.generator, device=self.device)


def urn(values: Tensor | int, start: Tensor | int, uniform: Tensor) -> Tensor:
    """Draw uniformly random multisets by Polya's urn: values in [0, m), shape (B, F), unsorted.

    A frame chooses from m `values`, and belongs to the multiset that begins with frame `start`,
    both broadcastable to (B, F); `uniform` (B, F) are numbers in [0, 1).
    """
    frames = uniform.shape[1]
    f = torch.arange(frames, device=uniform.device)  # (F,)
    ball = (uniform * (values + f - start)).long()  # (B, F)
    parent = torch.where(ball < values, f, start + ball - values)
    for _ in range((frames - 1).bit_length()):  # copies of copies: halve the chains
        parent = parent.gather(dim=1, index=parent)
    return ball.gather(dim=1, index=parent)


class Timesteps(ABC):
    """Draws the timesteps of a batch of clips.

    Args:
        timesteps: Number of training timesteps T.
    """

    def __init__(self, timesteps: int = 1000) -> None:
        if timesteps < 1:
            raise ValueError(f"timesteps must be at least 1, got {timesteps}.")
        self.timesteps = timesteps

    def __call__(
        self,
        batch: int,
        frames: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Return timesteps in [0, T), shape (B, F), int64."""
        return self.draw(batch, frames, Dice(generator, device or torch.get_default_device()))

    @abstractmethod
    def draw(self, batch: int, frames: int, dice: Dice) -> Tensor:
        """Draw timesteps in [0, T), shape (B, F), int64."""


class FoPP(Timesteps):
    """Frame-oriented probability propagation, exact in closed form for any number of frames.

    References:
        AR-Diffusion (Sun et al., CVPR 2025), section 3.3.
    """

    def pivots(self, batch: int, dice: Dice) -> Tensor:
        """Draw the pivot frame and its timestep, as shares of all in [0, 1), shape (B, 2)."""
        return torch.cat([dice.uniform(batch, 1), dice.uniform(batch, 1)], dim=1)

    def draw(self, batch: int, frames: int, dice: Dice) -> Tensor:
        where, when = self.pivots(batch, dice).split(1, dim=1)
        pivot, t_pivot = (where * frames).long(), (when * self.timesteps).long()  # (B, 1) each
        f = torch.arange(frames, device=dice.device)  # (F,)
        after = f > pivot  # (B, F)
        start = torch.where(after, pivot + 1, 0)  # first frame of a frame's side
        offset = torch.where(after, t_pivot, 0)
        values = torch.where(after, self.timesteps - t_pivot, t_pivot + 1)  # m
        t = offset + urn(values, start=start, uniform=dice.uniform(batch, frames))
        return torch.where(f == pivot, t_pivot, t).sort(dim=1).values


class StratifiedFoPP(FoPP):
    """FoPP whose pivots cover frames and timesteps evenly within a batch, for a calmer loss.

    They are the points of a Kronecker lattice, shifted at random as a whole, so that each alone is
    as FoPP's. The idea is VDM's for one timestep (Kingma et al., 2021, appendix I.1).
    """

    def pivots(self, batch: int, dice: Dice) -> Tensor:
        rank = torch.arange(batch, device=dice.device, dtype=dice.uniform(1).dtype)
        steps = torch.stack([rank * 0.7548776662466927, rank * 0.5698402909980532], dim=1)
        return (steps + dice.uniform(1, 2)) % 1  # the steps are the plastic ratio's


class NonDecreasing(Timesteps):
    """All non-decreasing sequences of timesteps equally likely, without FoPP's pivot frame.

    Of C(T + F - 1, F) sequences almost all climb evenly from 0 to T - 1: frame f follows a beta
    distribution around T (f + 1) / (F + 1), so that the longer the clip, the fewer timesteps a
    frame is trained at. FoPP's uniform pivot repairs that (paper, section 3.3).
    """

    def draw(self, batch: int, frames: int, dice: Dice) -> Tensor:
        return urn(self.timesteps, start=0, uniform=dice.uniform(batch, frames)).sort(dim=1).values


class Independent(Timesteps):
    """Every frame on its own, uniformly: Diffusion Forcing (Chen et al., 2024)."""

    def draw(self, batch: int, frames: int, dice: Dice) -> Tensor:
        return dice.integers(self.timesteps, batch, frames)


class Synchronous(Timesteps):
    """One timestep for all frames of a clip: ordinary video diffusion."""

    def draw(self, batch: int, frames: int, dice: Dice) -> Tensor:
        return dice.integers(self.timesteps, batch, 1).expand(batch, frames)


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
        if steps < 1:
            raise ValueError(f"steps of rows must be at least 1, got {steps}.")
        if any(not 0 <= s <= steps for s in differences):
            raise ValueError(f"differences must lie in 0 to {steps}, got {list(differences)}.")
        super().__init__(timesteps)
        self.steps = steps
        self.differences = list(differences) or list(range(1, steps + 1))

    def draw(self, batch: int, frames: int, dice: Dice) -> Tensor:
        choices = on_device(tuple(self.differences), dice.device)
        s = choices[dice.integers(len(choices), batch, 1)]  # (B, 1)
        iteration = self.place(dice.uniform(batch, 1) * (self.steps + s * (frames - 1)))  # (B, 1)
        f = torch.arange(frames, device=dice.device)
        k = (iteration - s * f).clamp(0, self.steps)  # (B, F)
        t = self.timesteps * (self.steps - k) / self.steps
        return t.ceil().long().sub(1).clamp(min=0)

    def place(self, iteration: Tensor) -> Tensor:
        """Say where a clip is on its way through a plan, of whose iterations a time is given."""
        return iteration


class StepRows(PlanRows):
    """Rows of AD plans at whole steps: the timesteps that S steps of sampling show, no others."""

    def place(self, iteration: Tensor) -> Tensor:
        return iteration.floor()


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
        counts = [sampler.timesteps for sampler in samplers]
        if len({*counts}) > 1:
            raise ValueError(f"Mixture needs samplers of equally many timesteps, got {counts}.")
        super().__init__(counts[0])
        self.samplers, self.weights = samplers, [*map(float, weights)]

    def draw(self, batch: int, frames: int, dice: Dice) -> Tensor:
        weights = on_device(tuple(self.weights), dice.device)
        choice = weights.multinomial(batch, replacement=True, generator=dice.generator)  # (B,)
        t = torch.stack([sampler.draw(batch, frames, dice) for sampler in self.samplers])
        return t[choice, torch.arange(batch, device=dice.device)]  # (B, F)
