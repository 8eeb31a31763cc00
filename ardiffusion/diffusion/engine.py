"""The two ways to run a plan over a network: with a cache of finished frames, or window by window.

In a strictly causal network a frame that has not started influences nobody and a finished frame
never changes, so `run_cached` computes only frames in flight. A frame enters the cache by being
computed once more, clean, within the iteration after its last. `run_windowed` serves all other
networks: it computes their whole sliding window in every iteration.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ardiffusion.diffusion.ad import Row
from ardiffusion.diffusion.graphs import Graphs
from ardiffusion.diffusion.solver import Grid, Solver, clean_factors
from ardiffusion.diffusion.target import Target


class Cache(Protocol):
    """What an engine asks of a network's memory of a run."""

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

    def make_cache(
        self,
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


@dataclass
class Flight:
    """The frames that an engine holds, and what it knows of each.

    Attributes:
        x: Latents, shape (B, F, L, C).
        past: The x_0 of each frame's previous step, shape of `x`; None if no solver asks for it.
        prior: Step index before that step, -1 if there was none.
    """

    x: Tensor
    past: Tensor | None
    prior: list[int]

    def drop(self, frames: int) -> None:
        """Forget the first frames."""
        if frames:
            self.x, self.prior = self.x[:, frames:], self.prior[frames:]
            self.past = None if self.past is None else self.past[:, frames:]

    def add(self, frames: Sequence[Tensor]) -> None:
        """Append frames (B, L, C) that have made no step yet."""
        if frames:
            new = torch.stack(list(frames), dim=1).to(self.x)
            self.x, self.prior = torch.cat([self.x, new], dim=1), self.prior + [-1] * len(frames)
            self.past = None if self.past is None else torch.cat([self.past, 0 * new], dim=1)


@dataclass
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
    static: bool | None
    cache: Cache = field(init=False)
    evaluate: Callable[[Tensor, Tensor], Tensor] = field(init=False)

    def begin(self, like: Tensor) -> Flight:
        """Make the cache for frames like `like` (B, L, C); return an empty flight."""
        batch, label, null = len(like), self.label, None
        if self.static is None:
            self.static = like.device.type == "cuda"
        if self.guidance != 1:  # both halves in one batch
            null = torch.arange(2 * batch, device=like.device) < batch
            batch, label = 2 * batch, None if label is None else torch.cat([label, label])
        cache = self.cache = self.denoiser.make_cache(
            batch=batch,
            frames=self.most,
            device=like.device,
            timesteps=self.grid.all_timesteps(),
            label=label,
            null=null,
            static=self.static,
        )

        def evaluate(x: Tensor, t: Tensor) -> Tensor:
            return self.denoiser(x, t, label=label, null=null, cache=cache)

        self.evaluate = Graphs(evaluate) if self.static else evaluate
        x = like[:, None][:, :0]  # (B, 0, L, C)
        return Flight(x=x, past=x if self.solver.remembers else None, prior=[])

    def prefill(self, given: Sequence[Tensor]) -> None:
        """Compute clean frames (B, L, C) for the cache alone."""
        for i in range(0, len(given), self.most):
            x = torch.stack(list(given[i : i + self.most]), dim=1)
            self.predict(x, t=torch.full((x.shape[1],), self.grid.clean))
            self.cache.advance(x.shape[1])

    def iterate(self, flight: Flight, before: list[int], after: list[int]) -> None:
        """Take frames from step indices `before` to `after`."""
        k_before, k_after = torch.tensor(before), torch.tensor(after)
        x = flight.x
        output = self.predict(x, t=self.grid.timesteps(k_before, k_after))
        f = self.solver.factors(
            k_before, k_after, torch.tensor(flight.prior), grid=self.grid, target=self.target
        )
        u, v = clean_factors(k_before, grid=self.grid, target=self.target)
        moves = k_after > k_before
        table = torch.stack([f.x, f.output, f.past, f.noise, u, v, moves])[..., None, None]
        a, b, c, d, u, v, moving = to_device(table.to(x.dtype), x.device).unbind()  # (F, 1, 1)
        flight.x = a * x + b * output
        if f.noise.any():
            flight.x = flight.x + d * self.fresh_noise(x, moves=moves)
        if flight.past is not None:
            flight.x = flight.x + c * flight.past
            flight.past = torch.where(moving > 0, u * x + v * output, flight.past)
            flight.prior = torch.where(moves, k_before, torch.tensor(flight.prior)).tolist()
        self.progress()

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """Evaluate the network on x (B, F, L, C) at the frames' timesteps t (F,)."""
        frames = x.shape[1]
        if self.static and self.denoiser.strictly_causal:  # one of two shapes
            size = self.most - 1 if frames < self.most else self.most
            x = F.pad(x, (0, 0, 0, 0, 0, size - frames))
            t = F.pad(t, (0, size - frames), value=self.grid.waiting)
        if self.guidance != 1:
            x = torch.cat([x, x])  # (2 B, F, L, C)
        t = to_device(t, x.device).expand(len(x), -1)  # (B, F)
        out = self.evaluate(x, t)[:, :frames].to(x.dtype)
        if self.guidance != 1:
            without, given = out.chunk(2)
            out = without + self.guidance * (given - without)
        return out

    def fresh_noise(self, x: Tensor, moves: Tensor) -> Tensor:
        """Draw noise for the frames that move, each sample from its own generator."""
        z = torch.zeros(x.shape, dtype=x.dtype)
        size = (int(moves.sum()), *x.shape[2:])
        for sample, generator in zip(z, self.generators or [None] * len(z), strict=True):
            sample[moves] = torch.randn(size, generator=generator, dtype=x.dtype)
        return z.to(x.device)


def to_device(table: Tensor, device: torch.device) -> Tensor:
    """Copy a small table from the CPU without making the CPU wait."""
    if device.type != "cuda":
        return table
    return table.pin_memory().to(device, non_blocking=True)


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
        flying = range(row.first, row.first + len(row.after))
        idle = [steps if f < row.first else 0 for f in range(start, end)]
        before, after = list(idle), list(idle)
        for f, b, a in zip(flying, row.before, row.after, strict=True):
            before[f - start], after[f - start] = b, a
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
                f"updates would be lost; use fewer steps than {steps} or a larger difference."
            )
        yield row, end
