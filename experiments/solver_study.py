"""What a comparison of solvers measures: Fréchet distances, and deviations from a fine solution.

The Fréchet distance of generated to real clips is what counts, and noisy with few videos. The
deviation from a finely stepped solution of the same noise is free of that: the root mean square
of the difference of the normalised latents, over that of the solution. It is taken at difference
0, where every number of steps has the same limit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ardiffusion.diffusion.ad import ad_iterations, ad_rows
from ardiffusion.diffusion.noise import sample_seed, sample_seeds
from ardiffusion.diffusion.solver import DDIM, Solver
from ardiffusion.generator import Generator
from ardiffusion.metrics.fvd import FrechetVideoDistance


@dataclass(frozen=True)
class Measurement:
    """The measurements of a solver at a number of steps.

    Attributes:
        solver: Name of the solver.
        steps: Denoising steps.
        difference: Steps between neighbouring frames.
        evaluations: Evaluations of the network per frame, the one for the cache included.
        frechet: Fréchet distance of generated to real clips.
        deviation: Deviation from the finely stepped solution.
    """

    solver: str
    steps: int
    difference: int
    evaluations: float
    frechet: float
    deviation: float


@dataclass
class Study:
    """What all measurements share.

    Attributes:
        generator: What generates.
        metric: The Fréchet distance, with its real clips.
        videos: Videos per measurement.
        frames: Frames of each.
        share: Difference between neighbouring frames over the steps.
        compared: Videos whose latents are compared with the reference.
        batch_size: Videos generated at once.
        seed: Seed of the noise.
        advance: Called after every iteration.
    """

    generator: Generator
    metric: FrechetVideoDistance
    videos: int
    frames: int
    share: float
    compared: int
    batch_size: int
    seed: int
    advance: Callable[[], None] = lambda: None

    def difference(self, steps: int) -> int:
        """Return the steps between neighbouring frames, rounded to the nearest."""
        return int(self.share * steps + 0.5)

    def iterations(self, steps: int) -> int:
        """Return how often `measure` advances."""
        batches = -(-self.videos // self.batch_size)
        return batches * ad_iterations(self.frames, steps, self.difference(steps)) + steps

    def measure_all(
        self, solvers: Sequence[Solver], steps: Sequence[int], reference: int
    ) -> list[Measurement]:
        """Measure every solver at every number of steps, against DDIM at `reference` steps."""
        fine = self.latents(DDIM(), reference)
        return [self.measure(s, count, reference=fine) for s in solvers for count in steps]

    def measure(self, solver: Solver, steps: int, reference: Tensor) -> Measurement:
        """Measure one solver at one number of steps."""
        frechet = self.frechet(solver, steps)
        found = self.latents(solver, steps)
        return Measurement(
            solver=type(solver).__name__,
            steps=steps,
            difference=self.difference(steps),
            evaluations=self.evaluations(steps),
            frechet=frechet,
            deviation=float((found - reference).norm() / reference.norm()),
        )

    def evaluations(self, steps: int) -> float:
        """Return how often a frame is computed: in its steps, and once more for the cache."""
        rows = list(ad_rows(self.frames, steps, self.difference(steps)))
        clean = rows[-1].first  # frames that later ones attended to
        return (sum(len(row.after) for row in rows) + clean) / self.frames

    def frechet(self, solver: Solver, steps: int) -> float:
        """Generate videos and return their distance to the real clips."""
        difference = self.difference(steps)
        sampler = self.generator.sampler(steps=steps, difference=difference, solver=solver)
        self.metric.reset_fake()
        for start in range(0, self.videos, self.batch_size):
            indices = range(start, min(start + self.batch_size, self.videos))
            video = self.generator.stream(
                sample_seeds(self.seed, indices),
                frames=self.frames,
                labels=self.generator.labels_in_turn(indices),
                sampler=sampler,
                progress=lambda _: self.advance(),
            )
            self.metric.update(fake=torch.stack(list(video), dim=1))  # (B, F, 3, H, W)
        return float(self.metric.compute())

    def latents(self, solver: Solver, steps: int) -> Tensor:
        """Sample normalised latents with all frames in step, (compared, F, L, C)."""
        arvae = self.generator.arvae
        generator = torch.Generator().manual_seed(sample_seed(self.seed, 0))
        size = (self.compared, self.frames, arvae.tokens, arvae.channels)
        frames = self.generator.sampler(steps=steps, difference=0, solver=solver).stream(
            self.generator.dit,
            torch.randn(size, generator=generator).to(self.generator.device),
            label=self.generator.labels_in_turn(range(self.compared)),
            progress=lambda _: self.advance(),
        )
        return arvae.normalise(torch.stack([x for _, x in frames], dim=1))
