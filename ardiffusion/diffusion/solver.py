"""One denoising step of every frame: DDIM, and the published sampler's variant of it.

From step index k to k + 1, with abar and abar' the values of the schedule at both:

    x' = sqrt(abar') x_0 + sqrt(1 - abar' - s^2) eps + s z,
    s^2 = eta^2 (1 - abar') / (1 - abar) (1 - abar / abar').
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ardiffusion.diffusion.schedule import NoiseSchedule, alpha_sigma
from ardiffusion.diffusion.target import Target


@dataclass(frozen=True)
class Grid:
    """The step indices k = 0 (pure noise) .. S (clean) on the schedule.

    Attributes:
        leaving: Timestep told to the network for a frame about to leave index k, shape (S,).
        waiting: Timestep told for a frame that stays pure noise.
        clean: Timestep told for a finished frame.
        alphas_cumprod: abar at index k, shape (S + 1,), float64.
    """

    leaving: Tensor
    waiting: int
    clean: int
    alphas_cumprod: Tensor

    @property
    def steps(self) -> int:
        return len(self.leaving)

    def timesteps(self, before: Tensor, after: Tensor) -> Tensor:
        """Return what the network is told of frames that go from index `before` to `after`."""
        t = self.leaving.to(before.device)[before.clamp(max=self.steps - 1)]
        t = torch.where((before == 0) & (after == 0), self.waiting, t)
        return torch.where(before == self.steps, self.clean, t)

    def alpha_sigma(self, index: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at step indices of shape (F,) as factors (F, 1, 1)."""
        return alpha_sigma(self.alphas_cumprod.to(index.device)[index], dtype=dtype)


class Solver(ABC):
    """Places S steps on the schedule and takes them.

    Attributes:
        settles: Whether a finished frame never changes again.
    """

    settles = True

    @abstractmethod
    def grid(self, schedule: NoiseSchedule, steps: int) -> Grid:
        """Place the steps."""

    @abstractmethod
    def step(
        self,
        x: Tensor,
        output: Tensor,
        before: Tensor,
        after: Tensor,
        grid: Grid,
        target: Target,
        noise: Callable[[], Tensor],
    ) -> Tensor:
        """Take one iteration of a plan.

        Args:
            x: Noisy latents, shape (B, F, L, C).
            output: What the network made of them, shape (B, F, L, C).
            before: Step index of each frame before the iteration, shape (F,).
            after: Step index after it, shape (F,).
            grid: The placed steps.
            target: What the network predicts.
            noise: Draws standard normal noise of the shape of `x`; called when needed.

        Returns:
            The latents after the iteration, shape (B, F, L, C).
        """


class DDIM(Solver):
    """DDIM: exactly S steps, evenly spread from T - 1, the last one to x_0 itself.

    References:
        Denoising diffusion implicit models (Song et al., ICLR 2021), equation 12.

    Args:
        eta: 0 for the deterministic sampler, 1 for ancestral sampling.
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in 0 to 1, got {eta}.")
        self.eta = eta

    def grid(self, schedule: NoiseSchedule, steps: int) -> Grid:
        if not 1 <= steps <= schedule.timesteps:
            raise ValueError(
                f"steps must lie between 1 and the {schedule.timesteps} training timesteps, "
                f"got {steps}."
            )
        k = torch.arange(steps)
        # t = ceil(T (1 - k / S)) - 1, in whole numbers
        leaving = -(-(steps - k) * schedule.timesteps // steps) - 1  # (S,)
        abar = torch.cat([schedule.alphas_cumprod[leaving], torch.ones(1, dtype=torch.float64)])
        return Grid(leaving=leaving, waiting=schedule.timesteps - 1, clean=0, alphas_cumprod=abar)

    def step(
        self,
        x: Tensor,
        output: Tensor,
        before: Tensor,
        after: Tensor,
        grid: Grid,
        target: Target,
        noise: Callable[[], Tensor],
    ) -> Tensor:
        moves = (after > before)[:, None, None]  # (F, 1, 1)
        before = before.clamp(max=grid.steps - 1)  # finished frames: any index with sigma > 0
        alpha, sigma = grid.alpha_sigma(before, dtype=x.dtype)
        alpha_s, sigma_s = grid.alpha_sigma(after, dtype=x.dtype)
        x_0, eps = target.split(output, x_t=x, alpha=alpha, sigma=sigma)
        if self.eta == 0:
            return torch.where(moves, alpha_s * x_0 + sigma_s * eps, x)
        ratio = (1 - (alpha / alpha_s) ** 2).clamp(min=0)
        std = self.eta * sigma_s / sigma * ratio.sqrt()
        direction = (sigma_s**2 - std**2).clamp(min=0).sqrt()
        return torch.where(moves, alpha_s * x_0 + direction * eps + std * noise(), x)


class PublishedDDIM(Solver):
    """The step of the sampler published with the weights, to the letter.

    It takes ceil(T / floor(T / S)) steps, starts below T - 1 (at 981 for S = 50), ends at abar_0
    instead of 1, and goes on stepping finished frames with themselves as the prediction, which
    multiplies them by a constant near 1 in every iteration.
    """

    settles = False

    def grid(self, schedule: NoiseSchedule, steps: int) -> Grid:
        if not 1 <= steps < schedule.timesteps:
            raise ValueError(
                f"steps must lie between 1 and {schedule.timesteps - 1} in the published "
                f"sampler, got {steps}."
            )
        tau = torch.arange(0, schedule.timesteps, schedule.timesteps // steps) + 1  # rising
        if tau[-1] >= schedule.timesteps:
            raise ValueError(
                f"The published sampler places a step at timestep {int(tau[-1])} for "
                f"{steps} steps, beyond the schedule; use {schedule.timesteps // 2} or fewer."
            )
        abar = schedule.alphas_cumprod
        return Grid(
            leaving=tau.flip(0),
            waiting=schedule.timesteps - 1,
            clean=int(tau[0]),
            alphas_cumprod=torch.cat([abar[tau.flip(0)], abar[:1]]),
        )

    def step(
        self,
        x: Tensor,
        output: Tensor,
        before: Tensor,
        after: Tensor,
        grid: Grid,
        target: Target,
        noise: Callable[[], Tensor],
    ) -> Tensor:
        moves = (after > before)[:, None, None]  # (F, 1, 1)
        output = torch.where(moves, output, x)
        before = before.clamp(max=grid.steps - 1)  # a finished frame takes the last step again
        alpha, sigma = grid.alpha_sigma(before, dtype=x.dtype)
        # It holds the levels it steps to in float32, whose 1 - abar lacks digits near the end.
        reached = replace(grid, alphas_cumprod=grid.alphas_cumprod.float())
        alpha_s, sigma_s = reached.alpha_sigma(after, dtype=x.dtype)
        x_0, eps = target.split(output, x_t=x, alpha=alpha, sigma=sigma)
        stepped = alpha_s * x_0 + sigma_s * eps
        return torch.where((after == 0)[:, None, None], x, stepped)  # still pure noise
