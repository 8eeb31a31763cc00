"""One run of the sampler: what stays the same during it, and how one iteration is computed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ardiffusion.diffusion.ad import Row
from ardiffusion.diffusion.denoiser import Cache, Denoiser
from ardiffusion.diffusion.graphs import Graphs
from ardiffusion.diffusion.grid import Grid
from ardiffusion.diffusion.solver import Solver, clean_factors
from ardiffusion.diffusion.target import Target


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

    def part(self, start: int, end: int) -> "Flight":
        """Return frames `start` to `end`."""
        past = None if self.past is None else self.past[:, start:end]
        return Flight(x=self.x[:, start:end], past=past, prior=self.prior[start:end])

    def put(self, part: "Flight", at: int) -> None:
        """Replace the frames from index `at` on."""
        end = at + part.x.shape[1]
        self.x[:, at:end] = part.x
        self.prior[at:end] = part.prior
        if self.past is not None and part.past is not None:
            self.past[:, at:end] = part.past


@dataclass(frozen=True)
class Step:
    """What one iteration does to its frames; all but the first two are factors (F, 1, 1).

    Attributes:
        t: Timesteps told to the network, shape (F,).
        moves: Whether a frame makes a step, shape (F, 1, 1).
        x: Factor of the latents.
        output: Factor of the network's output.
        past: Factor of the x_0 of the previous step.
        noise: Factor of fresh noise.
        clean_x: Factor of the latents in x_0.
        clean_output: Factor of the network's output in x_0.
        noisy: Whether there is fresh noise.
    """

    t: Tensor
    moves: Tensor
    x: Tensor
    output: Tensor
    past: Tensor
    noise: Tensor
    clean_x: Tensor
    clean_output: Tensor
    noisy: bool


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
    step: Callable[..., Step] = field(init=False)

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

        # Neither function knows the run, which holds them: a cycle would outlive it.
        denoiser = self.denoiser

        def evaluate(x: Tensor, t: Tensor) -> Tensor:
            return denoiser(x, t, label=label, null=null, cache=cache)

        self.evaluate = Graphs(evaluate) if self.static else evaluate
        # An AD schedule repeats its rows, shifted by a frame, so that their factors stay at hand.
        make = partial(
            make_step, solver=self.solver, grid=self.grid, target=self.target, like=like[:0]
        )
        self.step = lru_cache(maxsize=4096)(make)
        x = like[:, None][:, :0]  # (B, 0, L, C)
        return Flight(x=x, past=x if self.solver.remembers else None, prior=[])

    def prefill(self, given: Sequence[Tensor]) -> None:
        """Compute clean frames (B, L, C) for the cache alone."""
        for i in range(0, len(given), self.most):
            x = torch.stack(list(given[i : i + self.most]), dim=1)
            self.predict(x, t=torch.full((x.shape[1],), self.grid.clean, device=x.device))
            self.cache.advance(x.shape[1])

    def iterate(self, flight: Flight, before: list[int], after: list[int]) -> None:
        """Take frames from step indices `before` to `after`."""
        x, step = flight.x, self.step(tuple(before), tuple(after), tuple(flight.prior))
        output = self.predict(x, t=step.t)
        flight.x = step.x * x + step.output * output
        if step.noisy:
            flight.x = flight.x + step.noise * self.fresh_noise(x, before, after)
        if flight.past is not None:
            flight.x = flight.x + step.past * flight.past
            x_0 = step.clean_x * x + step.clean_output * output
            flight.past = torch.where(step.moves, x_0, flight.past)
            pairs = zip(before, after, flight.prior, strict=True)
            flight.prior = [k if k_after > k else prior for k, k_after, prior in pairs]
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
        out = self.evaluate(x, t.expand(len(x), -1))[:, :frames].to(x.dtype)
        if self.guidance != 1:
            without, given = out.chunk(2)
            out = without + self.guidance * (given - without)
        return out

    def fresh_noise(self, x: Tensor, before: list[int], after: list[int]) -> Tensor:
        """Draw noise for the frames that move, each sample from its own generator."""
        z = torch.zeros(x.shape, dtype=x.dtype)
        moves = [
            i for i, (k, k_after) in enumerate(zip(before, after, strict=True)) if k_after > k
        ]
        size = (len(moves), *x.shape[2:])
        for sample, generator in zip(z, self.generators or [None] * len(z), strict=True):
            sample[moves] = torch.randn(size, generator=generator, dtype=x.dtype)
        return z.to(x.device)


def make_step(
    before: tuple[int, ...],
    after: tuple[int, ...],
    prior: tuple[int, ...],
    solver: Solver,
    grid: Grid,
    target: Target,
    like: Tensor,
) -> Step:
    """Compute what an iteration needs, in the type and on the device of `like`."""
    k, k_after, k_prior = (torch.tensor(indices) for indices in (before, after, prior))
    f = solver.factors(k, k_after, k_prior, grid=grid, target=target)
    factors = torch.stack(
        [f.x, f.output, f.past, f.noise, *clean_factors(k, grid=grid, target=target)]
    )
    moves = (k_after > k).to(like.device)[:, None, None]
    t = grid.timesteps(k, k_after).to(like.device)
    on_device = factors.to(like)[..., None, None].unbind()  # (F, 1, 1) each
    return Step(t, moves, *on_device, noisy=bool(f.noise.any()))
