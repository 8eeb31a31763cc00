"""One run of the sampler: its frames go from noise to latents, span by span (spans.py).

A frame enters the cache of a strictly causal network by being computed once more within the
iteration after its last: its keys and values of the last step are those of a noisy frame, while
later frames are to see it clean.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ardiffusion.diffusion.denoiser import Cache, Denoiser
from ardiffusion.diffusion.graphs import Graphs
from ardiffusion.diffusion.noise import StepNoise
from ardiffusion.diffusion.schedule import StepTimes
from ardiffusion.diffusion.solver import Solver, x0_coefficients
from ardiffusion.diffusion.spans import Span
from ardiffusion.diffusion.target import Target


@dataclass
class ActiveFrames:
    """The frames that a run holds, and what it knows of each."""

    x: Tensor  # latents (B, F, L, C)
    x0_prev: Tensor | None  # the x_0 of each frame's previous step, if the solver asks for it
    k_prev: list[int]  # step index before that step, -1 if there was none
    first: int  # index of the first frame
    emitted: int  # frames before this one have been emitted

    @property
    def end(self) -> int:
        return self.first + self.x.shape[1]

    def drop(self, before: int) -> None:
        """Forget the frames before an index."""
        frames = before - self.first
        if frames > 0:
            self.first, self.x, self.k_prev = before, self.x[:, frames:], self.k_prev[frames:]
            self.x0_prev = None if self.x0_prev is None else self.x0_prev[:, frames:]

    def add(self, frames: Sequence[Tensor]) -> None:
        """Append frames (B, L, C) that have made no step yet."""
        if frames:
            new = torch.stack(list(frames), dim=1).to(self.x)
            self.x, self.k_prev = torch.cat([self.x, new], dim=1), self.k_prev + [-1] * len(frames)
            if self.x0_prev is not None:
                self.x0_prev = torch.cat([self.x0_prev, 0 * new], dim=1)

    def emit(self, end: int) -> Iterator[tuple[int, Tensor]]:
        """Yield index and latents (B, L, C) of frames up to `end` that were not emitted yet."""
        for f in range(self.emitted, end):
            yield f, self.x[:, f - self.first].clone()
        self.emitted = max(self.emitted, end)


class Update(NamedTuple):
    """What one iteration does to its frames: x' = a x + b output + c x0_prev + d noise.

    x_0 = u x + v output is kept for the next step.
    """

    t: Tensor  # what the network is told, (F,)
    moves: Tensor  # which frames make a step, (F, 1, 1)
    noisy: bool  # whether there is fresh noise
    factors: Tensor  # a, b, c, d, u and v, (6, F, 1, 1)


@dataclass
class SamplingRun:
    """What stays the same during a run; iterating over it yields frames as they become final."""

    denoiser: Denoiser
    solver: Solver
    target: Target
    times: StepTimes
    freezes: bool  # a finished frame stays as it is; else it is final on leaving the window
    spans: Iterable[Span]
    given: Sequence[Tensor]  # clean latents of the leading frames, (B, L, C) each
    noise: Callable[[int], Tensor]  # from a frame's index to its noise (B, L, C)
    max_frames: int  # that one iteration computes
    label: Tensor | None
    generators: Sequence[torch.Generator] | None  # one per sample; torch's own if not given
    progress: Callable[[Span], None]
    static: bool | None
    sink: int  # first frames that every later one attends to
    cache: Cache = field(init=False)
    fresh: StepNoise = field(init=False)
    evaluate: Callable[[Tensor, Tensor], Tensor] = field(init=False)
    update: Callable[..., Update] = field(init=False)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        yield from enumerate(self.given)
        active = None
        for span in self.spans:
            if active is None:
                active = self.begin()
            yield from active.emit(span.keep)
            active.drop(before=span.keep)
            active.add([self.noise(f) for f in range(active.end, span.end)])
            self.iterate(active, span)
            if self.freezes:
                yield from active.emit(span.final)
        if active is not None:
            yield from active.emit(active.end)

    def begin(self) -> ActiveFrames:
        """Make the cache; return the given frames, unless they are in it."""
        like = self.given[0] if self.given else self.noise(0)
        if self.static is None:
            self.static = like.device.type == "cuda"
        self.fresh = StepNoise(self.generators or [torch.default_generator] * len(like))
        # Neither function knows the run, which holds them: a cycle would outlive it.
        denoiser, label = self.denoiser, self.label
        cache = self.cache = denoiser.make_cache(
            batch=len(like),
            frames=self.max_frames,
            device=like.device,
            timesteps=self.times.all_timesteps(),
            label=label,
            static=self.static,
            sink=self.sink,
        )

        def evaluate(x: Tensor, t: Tensor) -> Tensor:
            return denoiser(x, t, label=label, cache=cache)

        self.evaluate = Graphs(evaluate) if self.static else evaluate
        # An AD schedule repeats its rows, shifted by a frame, so that their factors stay at hand.
        make = partial(make_update, solver=self.solver, times=self.times, target=self.target)
        self.update = lru_cache(maxsize=4096)(partial(make, freezes=self.freezes, like=like[:0]))
        x, given = like[:, None][:, :0], len(self.given)  # (B, 0, L, C)
        x0_prev = x if self.solver.multistep else None
        active = ActiveFrames(x=x, x0_prev=x0_prev, k_prev=[], first=0, emitted=given)
        if denoiser.strictly_causal:
            self.prefill()
            active.first = given
        else:
            active.add(self.given)
        return active

    def prefill(self) -> None:
        """Compute the given frames for the cache alone."""
        for i in range(0, len(self.given), self.max_frames):
            x = torch.stack(list(self.given[i : i + self.max_frames]), dim=1)
            self.predict(x, t=torch.full((x.shape[1],), self.times.clean, device=x.device))
            self.cache.advance(x.shape[1])

    def iterate(self, active: ActiveFrames, span: Span) -> None:
        """Take the frames of a span one iteration further."""
        here = slice(span.start - active.first, span.end - active.first)
        x, k_prev = active.x[:, here], active.k_prev[here]
        update = self.update(span.before, span.after, tuple(k_prev))
        a, b, c, d, u, v = update.factors
        output = self.predict(x, t=update.t)
        if self.denoiser.strictly_causal:
            self.cache.advance(span.before.count(self.times.steps))
        next_x = a * x + b * output
        if update.noisy:
            next_x = next_x + d * self.fresh_noise(x, span)
        if active.x0_prev is not None:
            x0_prev = active.x0_prev[:, here]
            next_x = next_x + c * x0_prev
            active.x0_prev[:, here] = torch.where(update.moves, u * x + v * output, x0_prev)
            pairs = zip(span.before, span.after, k_prev, strict=True)
            active.k_prev[here] = [k if k_after > k else prev for k, k_after, prev in pairs]
        active.x[:, here] = next_x
        self.progress(span)

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """Evaluate the network on x (B, F, L, C) at the frames' timesteps t (F,)."""
        frames = x.shape[1]
        if self.static and self.denoiser.strictly_causal:  # one of two shapes
            size = self.max_frames - (frames < self.max_frames)
            x = F.pad(x, (0, 0, 0, 0, 0, size - frames))
            t = F.pad(t, (0, size - frames), value=self.times.waiting)
        return self.evaluate(x, t.expand(len(x), -1))[:, :frames].to(x.dtype)

    def fresh_noise(self, x: Tensor, span: Span) -> Tensor:
        """Draw noise for the frames that move."""
        self.fresh.drop(before=span.keep)
        z = torch.zeros(x.shape, dtype=x.dtype)
        for i, (k, k_after) in enumerate(zip(span.before, span.after, strict=True)):
            if k_after > k:
                z[:, i] = self.fresh(span.start + i, like=x[:, i])
        return z.to(x.device)


def make_update(
    before: tuple[int, ...],
    after: tuple[int, ...],
    k_prev: tuple[int, ...],
    solver: Solver,
    times: StepTimes,
    target: Target,
    freezes: bool,
    like: Tensor,
) -> Update:
    """Compute what an iteration needs, in the type and on the device of `like`."""
    device = times.alphas_cumprod.device
    k, k_after, prev = (torch.tensor(i, device=device) for i in (before, after, k_prev))
    found = solver.coefficients(k, k_after, prev, times=times, target=target)
    if freezes:
        found = found.where(k_after > k)
    factors = torch.stack([*found, *x0_coefficients(k, times=times, target=target)])  # (6, F)
    factors = factors.to(like.dtype).to(like.device)[..., None, None]
    t = times.timesteps(k, k_after).to(like.device)
    moves = (k_after > k).to(like.device)[:, None, None]
    return Update(t, moves, bool(found.noise.any()), factors)
