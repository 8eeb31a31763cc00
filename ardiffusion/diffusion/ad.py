"""Adaptive difference (AD) schedule, paper section 3.4: which frame takes which step, when.

A plan is an integer table plan[iteration, frame] of step indices, 0 = pure noise, S = clean. The
paper's rule, a frame advances when its predecessor is clean and else follows it at distance s,
has the closed form

    plan[r, f] = clip(r + 1 - s f, 0, S),   r = 0 .. S + s (F - 1) - 1.

s = 0 is synchronous diffusion, s = S is frame-by-frame auto-regression.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Iteration(NamedTuple):
    """A row of a plan: the step indices of the frames that are neither done nor untouched.

    Frames before `first` were clean before the iteration; frames from `end` on are still pure
    noise after it.
    """

    first: int
    before: list[int]
    after: list[int]

    @property
    def end(self) -> int:
        return self.first + len(self.after)


def ad_plan(frames: int, steps: int, difference: int, ready: int = 0) -> Tensor:
    """Return the AD schedule as a table.

    Args:
        frames: Number of frames F.
        steps: Number of denoising steps S of each frame.
        difference: Distance s in steps between neighbouring frames, 0 to S.
        ready: Number of leading frames that are given and clean from the start.

    Returns:
        The step indices after each iteration, shape (iterations, F), int64.
    """
    check_difference(difference=difference, steps=steps)
    if not 0 <= ready <= frames:
        raise ValueError(f"ready must lie between 0 and the {frames} frames, got {ready}.")
    iterations = ad_iterations(frames - ready, steps=steps, difference=difference)
    r = torch.arange(iterations)[:, None]  # (R, 1)
    f = torch.arange(frames)[None, :] - ready  # (1, F)
    return torch.where(f < 0, steps, (r + 1 - difference * f).clamp(0, steps))


def ad_iterations(frames: int, steps: int, difference: int) -> int:
    return steps + difference * (frames - 1) if frames > 0 else 0


def ad_rows(
    frames: int | None, steps: int, difference: int, ready: int = 0
) -> Iterator[Iteration]:
    """Yield the rows of `ad_plan` one by one; without end where `frames` is None."""
    check_difference(difference=difference, steps=steps)
    if frames is None and difference == 0:
        raise ValueError("A video without end needs a difference of at least 1, got 0.")
    if frames is not None and frames <= ready:
        return
    first, end, r = ready, ready, 0
    while frames is None or first < frames:
        while (frames is None or end < frames) and difference * (end - ready) <= r:
            end += 1
        distances = [r - difference * (f - ready) for f in range(first, end)]
        before = [max(k, 0) for k in distances]
        after = [min(k + 1, steps) for k in distances]
        yield Iteration(first=first, before=before, after=after)
        first += after.count(steps)
        r += 1


def plan_rows(plan: Tensor, steps: int, ready: int = 0) -> Iterator[Iteration]:
    """Yield the rows of any plan (iterations, F) whose first `ready` frames are given."""
    start = torch.where(torch.arange(plan.shape[1]) < ready, steps, 0)
    table = torch.cat([start[None], plan.cpu()])  # (iterations + 1, F)
    check_plan(table, steps=steps)
    for before, after in zip(table[:-1].tolist(), table[1:].tolist(), strict=True):
        first = before.count(steps)
        end = max(sum(k > 0 for k in after), first)
        yield Iteration(first=first, before=before[first:end], after=after[first:end])


def check_plan(plan: Tensor, steps: int) -> None:
    """Raise unless the table of step indices, shape (iterations, F), can be run."""
    if plan.min() < 0 or plan.max() > steps:
        raise ValueError(f"A plan holds step indices from 0 to {steps}.")
    if (plan.diff(dim=1) > 0).any():
        raise ValueError("In a plan an earlier frame is never noisier than a later one.")
    if (plan.diff(dim=0) < 0).any():
        raise ValueError("In a plan a frame never returns to more noise.")
    if (plan[-1] < steps).any():
        raise ValueError(f"The plan ends before every frame has reached step {steps}.")


def check_difference(difference: int, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    if not 0 <= difference <= steps:
        raise ValueError(f"difference must lie between 0 and the {steps} steps, got {difference}.")
