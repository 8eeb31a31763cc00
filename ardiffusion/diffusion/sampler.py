"""Sampler: turns noise into latents along a plan, with any solver, target and network.

The AD schedule (paper section 3.4) is the default plan; `plans.py` defines plans, `engine.py` runs
them.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ardiffusion.diffusion.ad import check_difference
from ardiffusion.diffusion.denoiser import Denoiser
from ardiffusion.diffusion.engine import run_cached, run_queued, run_windowed
from ardiffusion.diffusion.plans import AD, Plan, Table
from ardiffusion.diffusion.run import Run
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import DDIM, Solver
from ardiffusion.diffusion.target import X0, Target


class Sampler:
    """Samples latents, frame by frame.

    References:
        AR-Diffusion (Sun et al., CVPR 2025), section 3.4.

    Args:
        schedule: The noise schedule that the network was trained with.
        target: What the network predicts; x_0 when not given.
        solver: How one step is taken; DDIM when not given.
        steps: Denoising steps S per frame.
        difference: Distance s in steps between neighbouring frames: 0 is synchronous, `steps`
            is frame after frame. Not used with a `plan`.
        guidance: Classifier-free guidance scale; 1 is off.
        static: Whether to compute in shapes that never change, padding where frames are missing,
            as CUDA graphs and torch.compile need; by default on GPUs.
        plan: Which frame takes which step in which iteration; the AD schedule with `difference`
            when not given.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        target: Target | None = None,
        solver: Solver | None = None,
        steps: int = 50,
        difference: int = 5,
        guidance: float = 1.0,
        static: bool | None = None,
        plan: Plan | None = None,
    ) -> None:
        if plan is None:
            check_difference(difference=difference, steps=steps)
        self.schedule = schedule
        self.target = target or X0()
        self.solver = solver or DDIM()
        self.steps = steps
        self.difference = difference
        self.guidance = guidance
        self.static = static
        self.plan = plan or AD(difference)
        self.grid = self.solver.grid(schedule, steps)

    def sample(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        label: Tensor | None = None,
        prefix: Tensor | None = None,
        plan: Plan | Tensor | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Return all frames at once; see `stream` for the arguments.

        Returns:
            Latents, shape (B, F, L, C).
        """
        frames = self.stream(
            denoiser, noise, label=label, prefix=prefix, plan=plan, generators=generators
        )
        return torch.stack([x for _, x in frames], dim=1)  # (B, F, L, C)

    @torch.no_grad()
    def stream(
        self,
        denoiser: Denoiser,
        noise: Tensor | Callable[[int], Tensor],
        label: Tensor | None = None,
        prefix: Tensor | None = None,
        plan: Plan | Tensor | None = None,
        generators: Sequence[torch.Generator] | None = None,
        progress: Callable[[], None] = lambda: None,
        frames: int | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield each frame when it is finished.

        Args:
            denoiser: The network.
            noise: Standard normal noise, shape (B, F, L, C), or a function from the frame's index
                to its noise (B, L, C), asked in rising order, the first frame perhaps twice.
            label: Class indices, shape (B,).
            prefix: Clean latents of the first frames, shape (B, P, L, C).
            plan: A plan instead of the sampler's own, or a table of the step indices after each
                iteration, shape (iterations, F).
            generators: One per sample, for solvers that add noise.
            progress: Called after each iteration.
            frames: Length F where noise is a function; without end if not given.

        Yields:
            The frame's index and its latents, shape (B, L, C), prefix first.
        """
        given = [] if prefix is None else list(prefix.unbind(dim=1))
        if plan is None:
            plan = self.plan
        elif isinstance(plan, Tensor):
            plan = Table(plan.tolist())
        frames = plan.length(noise.shape[1] if isinstance(noise, Tensor) else frames)
        self.check(denoiser, frames=frames, ready=len(given))
        steps, window = self.grid.steps, evaluated(denoiser)
        in_flight = plan.in_flight(frames, steps=steps)
        run = Run(
            denoiser=denoiser,
            solver=self.solver,
            target=self.target,
            grid=self.grid,
            guidance=self.guidance,
            rows=plan.rows(frames, steps=steps, window=window, ready=len(given)),
            frames=frames,
            most=min(in_flight + 1, frames or in_flight + 1),
            noise=noise.unbind(dim=1).__getitem__ if isinstance(noise, Tensor) else noise,
            label=label,
            generators=generators,
            progress=progress,
            static=self.static,
        )
        windowed = run_queued if plan.partitioned else run_windowed
        engine = run_cached if denoiser.strictly_causal else windowed
        yield from enumerate(given)
        yield from engine(run, given=given)

    def iterations(self, denoiser: Denoiser, frames: int, ready: int = 0) -> int:
        """Return how many iterations a video takes, of which `ready` frames are given."""
        return self.plan.iterations(
            frames, steps=self.grid.steps, window=evaluated(denoiser), ready=ready
        )

    def check(self, denoiser: Denoiser, frames: int | None, ready: int) -> None:
        """Raise if this sampler cannot serve the network or the lengths do not fit."""
        if self.guidance != 1 and not denoiser.conditional:
            raise ValueError(
                f"guidance {self.guidance} needs a network with a condition; use guidance 1."
            )
        if frames is not None and ready > frames:
            raise ValueError(f"The prefix has {ready} frames, the video only {frames}.")


def evaluated(denoiser: Denoiser) -> int | None:
    """Return how many frames a network can be evaluated on; None for any number."""
    return None if denoiser.strictly_causal else denoiser.window
