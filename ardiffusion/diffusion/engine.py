"""The two ways to run a plan over a network: with a cache of finished frames, or window by window.

In a strictly causal network a frame that has not started influences nobody and a finished frame
never changes, so `run_cached` computes only frames in flight. A frame enters the cache by being
computed once more, clean, within the iteration after its last. `run_windowed` serves all other
networks: it computes their whole sliding window in every iteration.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ardiffusion.diffusion.ad import Row
from ardiffusion.diffusion.solver import Grid, Solver
from ardiffusion.diffusion.target import Target


class Cache(Protocol):
    """What an engine asks of a network's cache of finished frames."""

    def advance(self, frames: int) -> None:
        """Keep the first `frames` of the frames that were computed last."""
        ...


class Denoiser(Protocol):
    """What the sampler asks of a network.

    A frame attends to `window` frames, itself included. A `strictly_causal` network computes a
    frame from itself and earlier frames alone; only such a network needs to offer `make_cache`.
    A `conditional` network can be evaluated with and without its condition.
    """

    @property
    def window(self) -> int:
        """Frames that a frame attends to, itself included."""
        ...

    @property
    def strictly_causal(self) -> bool:
        """Whether a frame depends on itself and earlier frames alone."""
        ...

    @property
    def conditional(self) -> bool:
        """Whether there is a condition to leave out, as guidance does."""
        ...

    def __call__(
        self,
        x_t: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        null: Tensor | None = None,
        cache: Any = None,  # noqa: ANN401 what make_cache returned
    ) -> Tensor:
        """Predict from x_t (B, F, L, C) and t (B, F)."""
        ...

    def make_cache(self, batch: int, frames: int, like: Tensor) -> Cache:
        """Return an empty cache for at most `frames` frames at once."""
        ...


@dataclass(frozen=True)
class Run:
    """What stays the same during one run."""

    denoiser: Denoiser
    solver: Solver
    target: Target
    grid: Grid
    guidance: float
    rows: Iterator[Row]
    frames: int | None
    most: int  # frames that one iteration holds at the most
    noise: Callable[[int], Tensor]
    label: Tensor | None
    generators: Sequence[torch.Generator] | None
    progress: Callable[[], None]

    def iterate(
        self, x: Tensor, before: list[int], after: list[int], cache: Cache | None
    ) -> Tensor:
        """Take frames x (B, F, L, C) from step indices `before` to `after`."""
        k_before = torch.tensor(before, device=x.device)
        k_after = torch.tensor(after, device=x.device)
        t = self.grid.timesteps(k_before, k_after).expand(x.shape[0], -1)  # (B, F)
        moves = [i for i, (b, a) in enumerate(zip(before, after, strict=True)) if a > b]
        self.progress()
        return self.solver.step(
            x,
            self.predict(x, t=t, cache=cache),
            before=k_before,
            after=k_after,
            grid=self.grid,
            target=self.target,
            noise=lambda: self.fresh_noise(x, moves=moves),
        )

    def predict(self, x: Tensor, t: Tensor, cache: Cache | None) -> Tensor:
        """Evaluate the network; with guidance, both halves in one batch."""
        if self.guidance == 1:
            return self.denoiser(x, t, label=self.label, cache=cache).to(x.dtype)
        twice = torch.cat([x, x])  # (2 B, F, L, C)
        label = None if self.label is None else torch.cat([self.label, self.label])
        null = torch.arange(len(twice), device=x.device) < len(x)
        out = self.denoiser(twice, torch.cat([t, t]), label=label, null=null, cache=cache)
        without, given = out.to(x.dtype).chunk(2)
        return without + self.guidance * (given - without)

    def fresh_noise(self, x: Tensor, moves: list[int]) -> Tensor:
        """Draw noise for the frames that move, each sample from its own generator."""
        z = torch.zeros_like(x)
        size = (len(moves), *x.shape[2:])
        for sample, generator in zip(z, self.generators or [None] * len(z), strict=True):
            drawn = torch.randn(size, generator=generator, dtype=x.dtype)
            sample[moves] = drawn.to(x.device)
        return z


def run_cached(run: Run, given: list[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Run the plan computing frames in flight alone.

    Args:
        run: The run.
        given: Clean latents of the leading frames, (B, L, C) each.

    Yields:
        Each other frame's index and latents (B, L, C) when it is finished.
    """
    live, position, cache = list(given), 0, None  # live frames: clean but not yet cached, flying
    for row in run.rows:
        commits = row.first - position
        end = row.first + len(row.after)
        live += [run.noise(f) for f in range(position + len(live), end)]
        if not row.after:
            continue
        x = torch.stack(live, dim=1)  # (B, F, L, C)
        if cache is None:
            batch = len(x) if run.guidance == 1 else 2 * len(x)
            cache = run.denoiser.make_cache(batch=batch, frames=run.most, like=x)
        clean = [run.grid.steps] * commits
        x = run.iterate(x, before=clean + row.before, after=clean + row.after, cache=cache)
        cache.advance(commits)
        live, position = list(x.unbind(dim=1))[commits:], row.first
        for i, k in enumerate(row.after):
            if k == run.grid.steps and row.before[i] < k:
                yield row.first + i, live[i]


def run_windowed(run: Run, given: list[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Run the plan computing the network's whole sliding window in every iteration.

    Args:
        run: The run.
        given: Clean latents of the leading frames, (B, L, C) each.

    Yields:
        Each other frame's index and latents (B, L, C) when it is final: on leaving the window
        where the solver goes on stepping finished frames, else when it is finished.
    """
    steps, window, ready = run.grid.steps, run.denoiser.window, len(given)
    live, start, told = list(given), 0, ready
    rows = slide(run.rows, frames=run.frames, window=window, ready=ready, steps=steps)
    # With an end in sight, a plan that cannot be run is refused before the first evaluation.
    for row, end in rows if run.frames is None else list(rows):
        live += [run.noise(f) for f in range(start + len(live), end)]
        leaving = max(end - window - start, 0)
        for f in range(max(told, start), start + leaving):
            yield f, live[f - start]
        live, start = live[leaving:], start + leaving
        told = max(told, start)
        flying = range(row.first, row.first + len(row.after))
        idle = [steps if f < row.first else 0 for f in range(start, end)]
        before, after = list(idle), list(idle)
        for f, b, a in zip(flying, row.before, row.after, strict=True):
            before[f - start], after[f - start] = b, a
        x = run.iterate(torch.stack(live, dim=1), before=before, after=after, cache=None)
        live = list(x.unbind(dim=1))
        while run.solver.settles and told < end and after[told - start] == steps:
            yield told, live[told - start]
            told += 1
    yield from ((f, live[f - start]) for f in range(told, start + len(live)))


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
                f"updates would be lost; use fewer steps than {steps} or a larger difference."
            )
        yield row, end
