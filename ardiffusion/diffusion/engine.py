"""The ways to run a plan over a network: with a cache of finished frames, or window by window.

In a strictly causal network a frame that has not started influences nobody and a finished frame
never changes, so `run_cached` computes only frames in flight. A frame enters the cache by being
computed once more, clean, within the iteration after its last. `run_windowed` serves all other
networks: it computes their whole sliding window in every iteration. `run_queued` does so where
more frames than a window are in flight: the window then ends at the last frame that a row moves.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor

from ardiffusion.diffusion.ad import Row
from ardiffusion.diffusion.run import Run


def run_cached(run: Run, given: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Run the plan computing frames in flight alone.

    Args:
        run: The run.
        given: Clean latents of the leading frames, (B, L, C) each.

    Yields:
        Each other frame's index and latents (B, L, C) when it is finished.
    """
    flight, position = None, len(given)  # the flight begins with clean frames not yet cached
    for row in run.rows:
        if not row.after:
            continue
        if flight is None:
            flight = run.begin(like=given[0] if given else run.noise(position))
            run.prefill(given)
        commits, end = row.first - position, row.first + len(row.after)
        flight.add([run.noise(f) for f in range(position + flight.x.shape[1], end)])
        clean = [run.grid.steps] * commits
        run.iterate(flight, before=clean + row.before, after=clean + row.after)
        run.cache.advance(commits)
        flight.drop(commits)
        position = row.first
        for i, k in enumerate(row.after):
            if k == run.grid.steps and row.before[i] < k:
                yield row.first + i, flight.x[:, i].clone()


def run_windowed(run: Run, given: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Run the plan computing the network's whole sliding window in every iteration.

    Args:
        run: The run.
        given: Clean latents of the leading frames, (B, L, C) each.

    Yields:
        Each other frame's index and latents (B, L, C) when it is final: on leaving the window
        where the solver goes on stepping finished frames, else when it is finished.
    """
    steps, window, ready = run.grid.steps, run.denoiser.window, len(given)
    flight, start, told = None, 0, ready
    rows = slide(run.rows, frames=run.frames, window=window, ready=ready, steps=steps)
    # With an end in sight, a plan that cannot be run is refused before the first evaluation.
    for row, end in rows if run.frames is None else list(rows):
        if flight is None:
            flight = run.begin(like=given[0] if given else run.noise(0))
            flight.add(given)
        flight.add([run.noise(f) for f in range(start + flight.x.shape[1], end)])
        leaving = max(end - window - start, 0)
        for f in range(max(told, start), start + leaving):
            yield f, flight.x[:, f - start].clone()
        flight.drop(leaving)
        start += leaving
        told = max(told, start)
        before, after = levels(row, start=start, end=end, steps=steps)
        run.iterate(flight, before=before, after=after)
        while run.solver.settles and told < end and after[told - start] == steps:
            yield told, flight.x[:, told - start].clone()
            told += 1
    if flight is not None:
        yield from ((f, flight.x[:, f - start]) for f in range(told, start + flight.x.shape[1]))


def slide(
    rows: Iterator[Row], frames: int | None, window: int, ready: int, steps: int
) -> Iterator[tuple[Row, int]]:
    """Pair each row with the end of the window, which moves by at most one frame per row.

    Raises:
        ValueError: If a frame would leave the window before it is clean, or start outside it.
    """
    end = max(window, ready) if frames is None else min(max(window, ready), frames)
    for row in rows:
        needed = row.first + len(row.after)
        end += needed > end
        if needed > end or row.first < end - window:
            raise ValueError(
                f"The frames in flight outrun the network's window of {window} frames, so that "
                f"updates would be lost; use fewer steps than {steps}, a larger difference "
                "or, for long videos, --plan FIFO."
            )
        yield row, end


def run_queued(run: Run, given: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Run the plan computing, for each row, the window of frames that ends with the last it moves.

    Frames that do not move stay as they are, whatever the solver does to finished ones.

    Args:
        run: The run.
        given: Clean latents of the leading frames, (B, L, C) each.

    Yields:
        Each other frame's index and latents (B, L, C) when it is finished.
    """
    steps, window, flight, base = run.grid.steps, run.denoiser.window, None, 0
    shortest = window if run.frames is None else min(window, run.frames)
    for row in run.rows:
        if flight is None:
            flight = run.begin(like=given[0] if given else run.noise(0))
            flight.add(given)
        surplus = max(row.first - (window - 1) - base, 0)  # no row looks back further
        flight.drop(surplus)
        base += surplus
        moves = [i for i, k in enumerate(row.after) if k > row.before[i]]
        first, last = row.first + moves[0], row.first + moves[-1]
        end = max(last + 1, shortest)
        start = max(end - window, 0)
        assert start <= first, "a row moves more frames than the window holds"
        flight.add([run.noise(f) for f in range(base + flight.x.shape[1], end)])
        before, after = levels(row, start=start, end=end, steps=steps)
        part = flight.part(start - base, end - base)
        run.iterate(part, before=before, after=after)
        flight.put(part.part(first - start, last + 1 - start), at=first - base)
        for f in (row.first + i for i in moves if row.after[i] == steps):
            yield f, flight.x[:, f - base].clone()


def levels(row: Row, start: int, end: int, steps: int) -> tuple[list[int], list[int]]:
    """Return the step indices of frames `start` to `end` before and after a row."""
    clean = [steps] * max(row.first - start, 0)
    noise = [0] * max(end - row.first - len(row.after), 0)
    before, after = (clean + list(k) + noise for k in (row.before, row.after))
    skipped = max(start - row.first, 0)
    return before[skipped : skipped + end - start], after[skipped : skipped + end - start]
