"""Sampler: turns noise into latents along a plan, with any solver, target and network.

The AD schedule (paper section 3.4) is the default plan; `plans.py` defines plans, `run.py` runs
them.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ardiffusion.diffusion.ad import check_difference
from ardiffusion.diffusion.denoiser import Denoiser, Guided
from ardiffusion.diffusion.plans import AD, FixedPlan, Plan
from ardiffusion.diffusion.run import SamplingRun
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import DDIM, Solver
from ardiffusion.diffusion.spans import Span, evaluated, plan_spans
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
        sink: First frames of a video that every frame attends to, among its `window` and no
            further away than that: an attention sink (StreamingLLM, Xiao et al., ICLR 2024), for
            videos longer than the window.
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
        sink: int = 0,
    ) -> None:
        if plan is None:
            check_difference(difference=difference, steps=steps)
        if not (math.isfinite(guidance) and guidance >= 0):
            raise ValueError(f"guidance must be a finite number of at least 0, got {guidance}.")
        self.schedule = schedule
        self.target = target or X0()
        self.solver = solver or DDIM()
        self.steps, self.difference = steps, difference
        self.guidance = guidance
        self.static, self.sink = static, sink
        self.plan = plan or AD(difference)
        self.times = self.solver.times(schedule, steps)

    def sample(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        label: Tensor | None = None,
        prefix: Tensor | None = None,
        plan: Plan | Tensor | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Return all frames at once, shape (B, F, L, C); see `stream` for the arguments."""
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
        progress: Callable[[Span], None] = lambda span: None,
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
            progress: Called after each iteration with what it did: its frames and their steps.
            frames: Length F where noise is a function; without end if not given.

        Yields:
            The frame's index and its latents, shape (B, L, C), prefix first.
        """
        plan = FixedPlan(plan.tolist()) if isinstance(plan, Tensor) else plan or self.plan
        given = [] if prefix is None else list(prefix.unbind(dim=1))
        frames = plan.length(noise.shape[1] if isinstance(noise, Tensor) else frames)
        if frames is not None and len(given) > frames:
            raise ValueError(f"The prefix has {len(given)} frames, the video only {frames}.")
        if self.guidance != 1:
            denoiser = Guided(denoiser, scale=self.guidance)
        check_sink(self.sink, denoiser)
        steps = self.times.steps
        in_flight = plan.in_flight(frames, steps=steps)
        yield from SamplingRun(
            denoiser=denoiser,
            solver=self.solver,
            target=self.target,
            times=self.times,
            freezes=self.solver.freezes_finished
            or denoiser.strictly_causal
            or plan.more_than_window,
            spans=plan_spans(plan, denoiser, frames, steps=steps, given_frames=len(given)),
            given=given,
            noise=noise.unbind(dim=1).__getitem__ if isinstance(noise, Tensor) else noise,
            max_frames=min(in_flight + 1, frames or in_flight + 1),
            label=label,
            generators=generators,
            progress=progress,
            static=self.static,
            sink=self.sink,
        )

    def iterations(self, denoiser: Denoiser, frames: int, given_frames: int = 0) -> int:
        window, steps = evaluated(denoiser), self.times.steps
        rows = self.plan.rows(frames, steps=steps, window=window, given_frames=given_frames)
        return sum(1 for _ in rows)


def check_sink(sink: int, denoiser: Denoiser) -> None:
    """Raise if frames cannot always attend to the first `sink` ones."""
    if sink and not denoiser.strictly_causal:
        raise ValueError(
            f"sink {sink} needs a network that keeps what it knows of earlier frames, which a "
            "strictly causal one does alone; use sink 0."
        )
    if not 0 <= sink < denoiser.window:
        raise ValueError(
            f"sink {sink} must be 0 or more and below the network's window of {denoiser.window} "
            "frames, to which the frame itself counts."
        )
