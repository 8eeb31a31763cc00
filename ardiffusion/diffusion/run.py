"""One run of the sampler: what stays the same during it, and how one iteration is computed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

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
