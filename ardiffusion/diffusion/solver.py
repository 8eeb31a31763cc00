"""Denoising steps: DDIM, a second-order multistep solver, and the published sampler's DDIM.

Every step of every solver is linear in what is known of a frame, with factors that depend on the
step indices alone:

    x' = a x + b output + c x0_prev + d z,

with z fresh noise and x0_prev the x_0 that was predicted in the frame's previous step. From
index k to k', with alpha, sigma and alpha', sigma' the schedule's values at both, DDIM is

    x' = alpha' x_0 + sqrt(sigma'^2 - s^2) (x - alpha x_0) / sigma + s z,
    s^2 = eta^2 (sigma' / sigma)^2 (1 - alpha^2 / alpha'^2).
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ardiffusion.diffusion.schedule import NoiseSchedule, StepTimes
from ardiffusion.diffusion.target import Target


class Coefficients(NamedTuple):
    """The coefficients a, b, c, d of one step, each of shape (F,), float64."""

    x: Tensor
    output: Tensor
    x0_prev: Tensor
    noise: Tensor

    def where(self, moves: Tensor) -> "Coefficients":
        """Keep the frames that do not move as they are."""
        idle = (1.0, 0.0, 0.0, 0.0)
        return Coefficients(*(torch.where(moves, f, i) for f, i in zip(self, idle, strict=True)))


class Solver(ABC):
    """Places S steps on the schedule and says how they are taken.

    A finished frame that does not freeze takes the last step in every iteration, with itself in
    place of the network's output.
    """

    freezes_finished = True
    multistep = False  # whether a step uses the x_0 of the frame's previous step
    context_timestep = 0  # what the network is told of finished frames

    def times(self, schedule: NoiseSchedule, steps: int) -> StepTimes:
        """Place exactly S steps, evenly spread from T - 1, the last one to x_0 itself."""
        if not 1 <= steps <= schedule.timesteps:
            raise ValueError(
                f"steps must lie between 1 and the {schedule.timesteps} training timesteps, "
                f"got {steps}."
            )
        if not 0 <= self.context_timestep < schedule.timesteps:
            raise ValueError(
                f"context_timestep must lie between 0 and {schedule.timesteps - 1}, the last "
                f"training timestep, got {self.context_timestep}."
            )
        abar = schedule.alphas_cumprod
        k = torch.arange(steps, device=abar.device)
        # t = ceil(T (1 - k / S)) - 1, in whole numbers
        leaving = -(-(steps - k) * schedule.timesteps // steps) - 1  # (S,)
        levels = torch.cat([abar[leaving], abar.new_ones(1)])
        waiting, clean = schedule.timesteps - 1, self.context_timestep
        return StepTimes(leaving, waiting, clean=clean, alphas_cumprod=levels)

    def coefficients(
        self, before: Tensor, after: Tensor, k_prev: Tensor, times: StepTimes, target: Target
    ) -> Coefficients:
        """Return the coefficients of one iteration of a plan.

        Step indices of each frame, shape (F,), are those before and after it, and before the
        frame's previous step, -1 if there was none.
        """
        a, b, c, d = self.solve(before.clamp(max=times.steps - 1), after, k_prev, times=times)
        u, v = x0_coefficients(before, times=times, target=target)
        moves = after > before
        if not self.freezes_finished:
            u, v, moves = torch.where(moves, u, u + v), torch.where(moves, v, 0.0), after > 0
        return Coefficients(a + b * u, b * v, c, d).where(moves)

    @abstractmethod
    def solve(self, k: Tensor, k_next: Tensor, k_prev: Tensor, times: StepTimes) -> Coefficients:
        """Return the coefficients of a step from k to k_next where the output is x_0 itself."""


def x0_coefficients(before: Tensor, times: StepTimes, target: Target) -> tuple[Tensor, Tensor]:
    """Return u and v of x_0 = u x + v output, shape (F,), for frames at step indices `before`."""
    alpha, sigma = times.alpha_sigma(before.clamp(max=times.steps - 1))
    one, zero = torch.ones_like(alpha), torch.zeros_like(alpha)
    u, _ = target.to_x0_eps(zero, x_t=one, alpha=alpha, sigma=sigma)
    v, _ = target.to_x0_eps(one, x_t=zero, alpha=alpha, sigma=sigma)
    return u, v


class DDIM(Solver):
    """DDIM, with exactly the asked number of steps.

    References:
        Denoising diffusion implicit models (Song et al., ICLR 2021), equation 12. Diffusion
        Forcing (Chen et al., NeurIPS 2024) stabilises long videos by `context_timestep`.

    Args:
        eta: 0 for the deterministic sampler, 1 for ancestral sampling.
        context_timestep: Training timestep, 0 to T - 1, that the network is told for finished
            frames: the higher, the less it trusts them and repeats their errors, so that long
            videos drift less and move more.
    """

    def __init__(self, eta: float = 0.0, context_timestep: int = 0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in 0 to 1, got {eta}.")
        self.eta, self.context_timestep = eta, context_timestep

    def solve(self, k: Tensor, k_next: Tensor, k_prev: Tensor, times: StepTimes) -> Coefficients:
        alpha, sigma = times.alpha_sigma(k)
        alpha_s, sigma_s = times.alpha_sigma(k_next)
        ratio = (1 - (alpha / alpha_s) ** 2).clamp(min=0)
        std = self.eta * sigma_s / sigma * ratio.sqrt()
        a = (sigma_s**2 - std**2).clamp(min=0).sqrt() / sigma
        return Coefficients(a, alpha_s - alpha * a, x0_prev=0 * a, noise=std)


class DPMSolver2M(Solver):
    """DPM-Solver++(2M): second order from two predictions of x_0, for fewer steps.

    With lambda = log(alpha / sigma), h = lambda' - lambda and r = h_previous / h, a step is that
    of DDIM with x_0 replaced by x_0 + (x_0 - x0_prev) / (2 r). A frame's first step and the one
    to x_0 itself, where lambda' is infinite, are DDIM steps.

    References:
        DPM-Solver++ (Lu et al., 2022), algorithm 2.

    Args:
        context_timestep: Training timestep that the network is told for finished frames, as in
            `DDIM`.
    """

    multistep = True

    def __init__(self, context_timestep: int = 0) -> None:
        self.context_timestep = context_timestep

    def times(self, schedule: NoiseSchedule, steps: int) -> StepTimes:
        """Place the steps evenly in lambda, from T - 1 down to 0, and the last one to x_0 itself.

        Evenly spread timesteps would end with a jump in lambda so large that it hides the second
        order. Where lambda rises by more than a step per timestep, neighbours are taken.
        """
        even = super().times(schedule, steps)
        abar = schedule.alphas_cumprod
        rising = (abar / (1 - abar)).log().neg() / 2  # -lambda of every timestep
        first, last = float(rising[-1]), float(rising[0])
        wanted = torch.linspace(first, last, steps, dtype=abar.dtype, device=abar.device)
        t = (rising - wanted[:, None]).abs().argmin(dim=1).tolist()  # falling
        for k in reversed(range(steps - 1)):
            t[k] = max(t[k], t[k + 1] + 1)
        latest = schedule.timesteps - 1 - torch.arange(steps, device=abar.device)
        leaving = even.leaving.new_tensor(t).minimum(latest)  # (S,)
        levels = torch.cat([abar[leaving], even.alphas_cumprod[-1:]])
        return replace(even, leaving=leaving, alphas_cumprod=levels)

    def solve(self, k: Tensor, k_next: Tensor, k_prev: Tensor, times: StepTimes) -> Coefficients:
        alpha, sigma = times.alpha_sigma(k)
        alpha_s, sigma_s = times.alpha_sigma(k_next)
        alpha_p, sigma_p = times.alpha_sigma(k_prev.clamp(min=0))
        a = sigma_s / sigma
        b = alpha_s - alpha * a
        h = (alpha_s / sigma_s).log() - (alpha / sigma).log()
        h_prev = (alpha / sigma).log() - (alpha_p / sigma_p).log()
        second = (k_prev >= 0) & (k_next < times.steps) & (k_next > k)
        c = torch.where(second, h / (2 * h_prev), 0.0)
        return Coefficients(a, b * (1 + c), x0_prev=-b * c, noise=torch.zeros_like(a))


class PublishedDDIM(Solver):
    """The step of the sampler published with the weights, to the letter.

    It takes ceil(T / floor(T / S)) steps, starts below T - 1 (at 981 for S = 50), ends at abar_0
    instead of 1, and goes on stepping finished frames with themselves as the prediction, which
    multiplies them by a constant near 1 in every iteration.
    """

    freezes_finished = False

    def times(self, schedule: NoiseSchedule, steps: int) -> StepTimes:
        if not 1 <= steps < schedule.timesteps:
            raise ValueError(
                f"steps must lie between 1 and {schedule.timesteps - 1} in the published "
                f"sampler, got {steps}."
            )
        abar, stride = schedule.alphas_cumprod, schedule.timesteps // steps
        tau = torch.arange(0, schedule.timesteps, stride, device=abar.device) + 1  # rising
        if tau[-1] >= schedule.timesteps:
            raise ValueError(
                f"The published sampler places a step at timestep {int(tau[-1])} for "
                f"{steps} steps, beyond the schedule; use a number that divides "
                f"{schedule.timesteps}, {schedule.timesteps // 2} at most."
            )
        leaving, clean = tau.flip(0), int(tau[0])
        levels = torch.cat([abar[leaving], abar[:1]])
        return StepTimes(leaving, schedule.timesteps - 1, clean=clean, alphas_cumprod=levels)

    def solve(self, k: Tensor, k_next: Tensor, k_prev: Tensor, times: StepTimes) -> Coefficients:
        alpha, sigma = times.alpha_sigma(k)
        # It holds the levels it steps to in float32, whose 1 - abar lacks digits near the end.
        reached = times.alphas_cumprod[k_next].float()
        a = (1 - reached).sqrt().double() / sigma
        b = reached.sqrt().double() - alpha * a
        return Coefficients(a, b, x0_prev=0 * a, noise=0 * a)
