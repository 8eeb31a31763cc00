"""Which frames the network computes in an iteration of a plan.

In a strictly causal network a frame that has not started influences nobody and a finished frame
never changes, so only frames in flight are computed (`in_flight`). All other networks compute
their whole window, which slides over the video (`sliding`); where more frames than a window are in
flight, it jumps to the frames that the iteration moves (`queued`).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ardiffusion.diffusion.ad import Iteration
from ardiffusion.diffusion.denoiser import Denoiser
from ardiffusion.diffusion.plans import Plan


class Span(NamedTuple):
    """Frames `start` to `end` of a video, the latter left out, which an iteration computes."""

    start: int
    end: int
    before: tuple[int, ...]  # step indices of these frames before the iteration
    after: tuple[int, ...]  # step indices of these frames after it
    keep: int  # frames before this one are not needed any more
    final: int  # frames before this one are clean after the iteration


def plan_spans(
    plan: Plan, denoiser: Denoiser, frames: int | None, steps: int, given_frames: int
) -> Iterable[Span]:
    """Run a plan on a network; the first `given_frames` frames are clean from the start."""
    window = evaluated(denoiser)
    rows = plan.rows(frames, steps=steps, window=window, given_frames=given_frames)
    if window is None:
        return in_flight(rows, steps=steps, given_frames=given_frames)
    shortest = window if frames is None else min(window, frames)
    if plan.more_than_window:
        return queued(rows, steps=steps, window=window, shortest=shortest)
    spans = sliding(rows, steps=steps, window=window, end=max(shortest, given_frames))
    # With an end in sight, a plan that cannot be run is refused before the first evaluation.
    return spans if frames is None else list(spans)


def evaluated(denoiser: Denoiser) -> int | None:
    """Return how many frames a network can be evaluated on; None for any number."""
    return None if denoiser.strictly_causal else denoiser.window


def in_flight(rows: Iterable[Iteration], steps: int, given_frames: int) -> Iterator[Span]:
    """Compute frames in flight, and finished ones once more, clean, for the cache."""
    start = given_frames  # the first frame that is not in the cache
    for row in rows:
        if row.after:
            yield fill(row, start=start, end=row.end, steps=steps, keep=start)
            start = row.first


def sliding(rows: Iterable[Iteration], steps: int, window: int, end: int) -> Iterator[Span]:
    """Compute a window whose end moves by at most one frame per iteration.

    No frame may leave the window before it is clean, or start outside it.
    """
    for row in rows:
        end += row.end > end
        if row.end > end or row.first < end - window:
            raise ValueError(
                f"The frames in flight outrun the network's window of {window} frames, so that "
                f"updates would be lost; use fewer steps than {steps}, a larger difference "
                "or, for long videos, --plan FIFO."
            )
        start = max(end - window, 0)
        yield fill(row, start=start, end=end, steps=steps, keep=start)


def queued(rows: Iterable[Iteration], steps: int, window: int, shortest: int) -> Iterator[Span]:
    """Compute for each iteration the window that ends with the last frame it moves."""
    for row in rows:
        moves = [i for i, k in enumerate(row.after) if k > row.before[i]]
        end = max(row.first + moves[-1] + 1, shortest)
        start = max(end - window, 0)
        assert start <= row.first + moves[0], "a row moves more frames than the window holds"
        keep = max(row.first - (window - 1), 0)  # no row looks back further
        yield fill(row, start=start, end=end, steps=steps, keep=keep)


def fill(row: Iteration, start: int, end: int, steps: int, keep: int) -> Span:
    """Add the clean frames before a row and the noise behind it, as far as the span reaches."""
    clean = (steps,) * max(row.first - start, 0)
    noise = (0,) * max(end - row.end, 0)
    skipped = max(start - row.first, 0)
    before, after = (
        (*clean, *indices, *noise)[skipped : skipped + end - start]
        for indices in (row.before, row.after)
    )
    return Span(start, end, before, after, keep=keep, final=row.first + row.after.count(steps))
