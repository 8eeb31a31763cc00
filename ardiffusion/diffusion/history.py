"""The past as sampling sees it: frames that the network itself has predicted, with its errors."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Generator, Tensor

from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.target import Target


class OwnHistory:
    """Replaces the first frames of some clips by what the network sees in them under noise.

    Their noise levels are those of another clip of the batch. There is no gradient through the
    prediction, and only the frames after it count in the loss. It costs one more evaluation of the
    network, without gradient.

    References:
        Resampling Forcing (Guo et al., 2025), which noises and predicts the past this way.

    Args:
        share: Share of the clips with such a history.
    """

    def __init__(self, share: float = 0.5) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"The share of clips must be above 0 and at most 1, got {share}.")
        self.share = share

    def draw(self, batch: int, frames: int, generator: Generator) -> Tensor:
        """Draw which frames to replace, bool (B, F): the first 1 to F - 1 of a share of clips."""
        chosen, length = torch.rand(2, batch, 1, generator=generator, device=generator.device)
        f = torch.arange(frames, device=generator.device)  # (F,)
        return (f < 1 + (length * (frames - 1)).long()) & (chosen < self.share) & (frames > 1)

    @torch.no_grad()
    def __call__(
        self,
        network: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        t: Tensor,
        schedule: NoiseSchedule,
        target: Target,
        generator: Generator,
    ) -> tuple[Tensor, Tensor]:
        """Return what to show instead of x (B, F, L, C), and which frames count, bool (B, F).

        The network predicts the target from noisy latents (B, F, L, C) and timesteps (B, F), of
        which t are the batch's; the generator is on the device of x.
        """
        replaced = self.draw(len(x), x.shape[1], generator)  # (B, F)
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        alpha, sigma = schedule.alpha_sigma(t.roll(1, dims=0), dtype=x.dtype)
        x_t = alpha * x + sigma * noise
        output = network(x_t, t.roll(1, dims=0)).to(x.dtype)
        own, _ = target.to_x0_eps(output, x_t=x_t, alpha=alpha, sigma=sigma)
        return torch.where(rearrange(replaced, "b f -> b f 1 1"), own, x), ~replaced
