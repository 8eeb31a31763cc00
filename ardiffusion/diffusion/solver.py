"""Denoising steps: DDIM, a second-order multistep solver, and the published sampler's DDIM.

Every step of every solver is linear in what is known of a frame, with factors that depend on the
step indices alone:

    x' = a x + b output + c past + d z,

with z fresh noise and past the x_0 that was predicted in the frame's previous step. From index k
to k', with alpha, sigma and alpha', sigma' the values of the schedule at both, DDIM is

    x' = alpha' x_0 + sqrt(sigma'^2 - s^2) (x - alpha x_0) / sigma + s z,
    s^2 = eta^2 (sigma' / sigma)^2 (1 - alpha^2 / alpha'^2).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ardiffusion.diffusion.grid import Grid
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.target import Target


@dataclass(frozen=True)
class Factors:
    """The factors of one step, each of shape (F,), float64.

    Attributes:
        x: Factor a of the noisy latents.
        output: Factor b of the network's output.
        past: Factor c of the x_0 that was predicted in the previous step.
        noise: Factor d of fresh noise.
    """

    x: Tensor
    output: Tensor
    past: Tensor
    noise: Tensor

    def where(self, moves: Tensor) -> "Factors":
        """Keep the frames that do not move as they are."""
        idle = (1.0, 0.0, 0.0, 0.0)
        factors = (self.x, self.output, self.past, self.noise)
        return Factors(*(torch.where(moves, f, i) for f, i in zip(factors, idle, strict=True)))


class Solver(ABC):
    """Places S steps on the schedule and says how they are taken.

    Attributes:
        settles: Whether a finished frame never changes again.
        remembers: Whether a step uses the x_0 of the frame's previous step.
    """

    settles = True
    remembers = False

    def grid(self, schedule: NoiseSchedule, steps: int) -> Grid:
        """Place exactly S steps, evenly spread from T - 1, the last one to x_0 itself."""
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

    @abstractmethod
    def factors(
        self, before: Tensor, after: Tensor, prior: Tensor, grid: Grid, target: Target
    ) -> Factors:
        """Return the factors of one iteration of a plan.

        Args:
            before: Step index of each frame before the iteration, shape (F,).
            after: Step index after it, shape (F,).
            prior: Step index before the frame's previous step, -1 if there was none, shape (F,).
            grid: The placed steps.
            target: What the network predicts.
        """


def clean_factors(before: Tensor, grid: Grid, target: Target) -> tuple[Tensor, Tensor]:
    """Return u and v of x_0 = u x + v output, shape (F,), for frames at step indices `before`."""
    alpha, sigma = grid.alpha_sigma(before.clamp(max=grid.steps - 1))
    one, zero = torch.ones_like(alpha), torch.zeros_like(alpha)
    u, _ = target.split(zero, x_t=one, alpha=alpha, sigma=sigma)
    v, _ = target.split(one, x_t=zero, alpha=alpha, sigma=sigma)
    return u, v


class DDIM(Solver):
    """DDIM, with exactly the asked number of steps.

    References:
        Denoising diffusion implicit models (Song et al., ICLR 2021), equation 12.

    Args:
        eta: 0 for the deterministic sampler, 1 for ancestral sampling.
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in 0 to 1, got {eta}.")
        self.eta = eta

    def factors(
        self, before: Tensor, after: Tensor, prior: Tensor, grid: Grid, target: Target
    ) -> Factors:
        u, v = clean_factors(before, grid=grid, target=target)
        alpha, sigma = grid.alpha_sigma(before.clamp(max=grid.steps - 1))
        alpha_s, sigma_s = grid.alpha_sigma(after)
        ratio = (1 - (alpha / alpha_s) ** 2).clamp(min=0)
        std = self.eta * sigma_s / sigma * ratio.sqrt()
        a = (sigma_s**2 - std**2).clamp(min=0).sqrt() / sigma
        b = alpha_s - alpha * a  # of x_0
        return Factors(a + b * u, b * v, past=0 * a, noise=std).where(after > before)


class DPMSolver2M(Solver):
    """DPM-Solver++(2M): second order from two predictions of x_0, for fewer steps.

    With lambda = log(alpha / sigma), h = lambda' - lambda and r = h_previous / h, a step is that
    of DDIM with x_0 replaced by x_0 + (x_0 - past) / (2 r). A frame's first step and the one to
    x_0 itself, where lambda' is infinite, are DDIM steps.

    References:
        DPM-Solver++ (Lu et al., 2022), algorithm 2.
    """

    remembers = True

    def grid(self, schedule: NoiseSchedule, steps: int) -> Grid:
        """Place the steps evenly in lambda, from T - 1 down to 0, and the last one to x_0 itself.

        Evenly spread timesteps would end with a jump in lambda so large that it hides the second
        order. Where lambda rises by more than a step per timestep, neighbours are taken.
        """
        even = super().grid(schedule, steps)
        abar = schedule.alphas_cumprod
        rising = (abar / (1 - abar)).log().neg() / 2  # -lambda of every timestep
        wanted = torch.linspace(float(rising[-1]), float(rising[0]), steps, dtype=rising.dtype)
        t = (rising - wanted[:, None]).abs().argmin(dim=1).tolist()  # falling
        for k in reversed(range(steps - 1)):
            t[k] = max(t[k], t[k + 1] + 1)
        leaving = torch.tensor(t).minimum(schedule.timesteps - 1 - torch.arange(steps))  # (S,)
        levels = torch.cat([abar[leaving], even.alphas_cumprod[-1:]])
        return replace(even, leaving=leaving, alphas_cumprod=levels)

    def factors(
        self, before: Tensor, after: Tensor, prior: Tensor, grid: Grid, target: Target
    ) -> Factors:
        u, v = clean_factors(before, grid=grid, target=target)
        alpha, sigma = grid.alpha_sigma(before.clamp(max=grid.steps - 1))
        alpha_s, sigma_s = grid.alpha_sigma(after)
        alpha_p, sigma_p = grid.alpha_sigma(prior.clamp(min=0))
        a = sigma_s / sigma
        b = alpha_s - alpha * a  # of x_0
        h = (alpha_s / sigma_s).log() - (alpha / sigma).log()
        h_previous = (alpha / sigma).log() - (alpha_p / sigma_p).log()
        second = (prior >= 0) & (after < grid.steps) & (after > before)
        c = torch.where(second, h / (2 * h_previous), 0.0)
        return Factors(
            a + b * (1 + c) * u, b * (1 + c) * v, past=-b * c, noise=torch.zeros_like(a)
        ).where(after > before)


class PublishedDDIM(Solver):
    """The step of the sampler published with the weights, to the letter.

    It takes ceil(T / floor(T / S)) steps, starts below T - 1 (at 981 for S = 50), ends at abar_0
    instead of 1, and goes on stepping finished frames with themselves as the prediction, which
    multiplies them by a constant near 1 in every iteration.
    """

    settles = False

    def grid(self, schedule: NoiseSchedule, steps: int) -> Grid:
        """Place the steps where the published sampler places them."""
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

    def factors(
        self, before: Tensor, after: Tensor, prior: Tensor, grid: Grid, target: Target
    ) -> Factors:
        u, v = clean_factors(before, grid=grid, target=target)
        alpha, sigma = grid.alpha_sigma(before.clamp(max=grid.steps - 1))
        # It holds the levels it steps to in float32, whose 1 - abar lacks digits near the end.
        reached = grid.alphas_cumprod[after].float()
        a = (1 - reached).sqrt().double() / sigma
        b = reached.sqrt().double() - alpha * a  # of x_0
        moves = after > before
        # A finished frame takes the last step again, with itself in place of the output.
        u, v = torch.where(moves, u, u + v), torch.where(moves, v, 0.0)
        return Factors(a + b * u, b * v, past=0 * a, noise=0 * a).where(after > 0)
