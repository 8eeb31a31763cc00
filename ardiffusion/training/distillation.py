"""Stage 3, few steps: a student learns where its teacher's ODE ends.

    loss = mean |student(x_t, t) - x|²   over the frames in flight,

x being what the teacher makes of x_t in many steps of DDIM, in which all frames come nearer to
clean alike, as along an AD plan. One evaluation of the student then leads from a noise level to
clean latents, so that sampling may take 1, 2 or 4 of them. Timesteps t are those that it shows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ardiffusion.diffusion.denoiser import Guided
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.target import Target
from ardiffusion.generator import Generator


class Distillation(nn.Module):
    """The teacher: the generator that training starts from, frozen, with its own guidance.

    It is evaluated `steps` times for every evaluation of the student, and is no part of what the
    student's checkpoints hold.

    References:
        Consistency models (Song et al., ICML 2023), whose function from any level to the end of
        the ODE is learnt, though not from itself but from the ODE solved to its end, as in
        knowledge distillation (Luhman and Luhman, 2021). That is dearer and needs no second
        network, average or schedule of its own.

    Args:
        steps: Steps of DDIM that the teacher takes from pure noise to clean.
    """

    def __init__(self, steps: int = 25) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps of the teacher must be at least 1, got {steps}.")
        self.steps = steps
        self.teacher: Any = nn.Module()  # until `load`

    def load(self, source: str, arvae: str | None, data: object) -> None:
        """Load the teacher, whose classes must be those of the data."""
        made = Generator.from_pretrained(source, arvae=arvae)
        classes = getattr(data, "classes", [])
        if made.conditional and made.classes != classes:
            raise ValueError(
                f"The teacher knows the classes {', '.join(made.classes)}, the data has "
                f"{', '.join(classes) or 'none'}: a teacher cannot show what it does not know."
            )
        self.schedule, self.target, self.guidance = made.schedule, made.target, made.guidance
        self.teacher = made.dit.requires_grad_(False).eval()

    def forward(
        self, x: Tensor, noise: Tensor, t: Tensor, label: Tensor, null: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return where the teacher's ODE ends, (B, F, L, C), and how much frames count, (B, F).

        Those that sampling evaluates for nothing, or not at all, count nothing; the mean is 1.

        Args:
            x: Normalised latents, shape (B, F, L, C).
            noise: Their noise, shape of `x`.
            t: Timestep of each frame, shape (B, F).
            label: Class indices, shape (B,).
            null: Rows without their class, bool, shape (B,).
        """
        if not hasattr(self, "guidance"):
            raise ValueError("Distillation needs a teacher: name it by --model.start.")
        guided = Guided(self.teacher, scale=self.guidance) if self.guidance != 1 else self.teacher
        network = partial(guided, label=torch.where(null, -1, label))
        counted = in_flight(t, timesteps=self.schedule.timesteps).to(x.dtype)
        x_t = self.schedule.add_noise(x, noise, t)
        end = ode_end(network, x_t, t, self.schedule, self.target, steps=self.steps)
        return end, counted / counted.mean()


def in_flight(t: Tensor, timesteps: int) -> Tensor:
    """Return which frames take a step in a row of an AD plan, bool, shape of t (B, F).

    Those before are clean, at timestep 0. Of those of pure noise the first one may begin, the
    others wait.
    """
    waits = t.roll(1, dims=1) == timesteps - 1
    waits[:, 0] = False
    return (t > 0) & ~waits


@torch.no_grad()
def ode_end(
    network: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    target: Target,
    steps: int,
) -> Tensor:
    """Take noisy latents x (B, F, L, C) from their timesteps t (B, F) to clean by DDIM.

    All frames take steps of one length, so many from pure noise to clean, so that those with less
    noise are clean before others.
    """
    length = -(-schedule.timesteps // steps)
    for _ in range(steps):
        now, after = t.clamp(min=0), t - length  # below 0 is clean
        alpha, sigma = schedule.alpha_sigma(now, dtype=x.dtype)
        output = network(x, now).to(x.dtype)
        x_0, eps = target.to_x0_eps(output, x_t=x, alpha=alpha, sigma=sigma)
        alpha, sigma = schedule.alpha_sigma(after.clamp(min=0), dtype=x.dtype)
        left = rearrange(after, "b f -> b f 1 1")
        stepped = torch.where(left < 0, x_0, alpha * x_0 + sigma * eps)
        x = torch.where(left < -length, x, stepped)
        t = after
    return x
