"""How much the error of a frame counts in the loss, by its noise level.

    loss = mean over frames of w_f |target_f - network(x_t, t)_f|²

The paper weighs all levels alike. Which levels matter is an open question with answers in both
directions, so each is a class; only the ratio of two weights matters to Adam. One of them learns
the weights beside the network, and minimises something else than the weighted error.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn


class Weighting(nn.Module, ABC):
    """Weighs noise levels against each other."""

    @abstractmethod
    def forward(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return a weight per noise level, shape of `alpha` and `sigma`."""

    def weigh(self, errors: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return what is minimised of the errors at their noise levels, (B, F) as all three."""
        return self(alpha, sigma) * errors

    def resume(self, given: Mapping[str, Tensor]) -> None:
        """Go on with what a checkpoint holds, which must be of such a weighting."""
        own = self.state_dict()
        if {n: x.shape for n, x in own.items()} != {n: x.shape for n, x in given.items()}:
            raise ValueError(
                "The checkpoint was trained with another --model.weighting, and one of the two "
                "learns: name the same one to go on."
            )
        self.load_state_dict(given)


class Uniform(Weighting):
    """All noise levels count alike, as in the paper."""

    def forward(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha.new_ones(alpha.shape)


class Ramp(Weighting):
    """From one weight for clean frames to another for pure noise, linear in abar = alpha².

    Dreamer 4 (Hafner et al., 2025) lets clean frames count more. The opposite makes small models
    calm, and their videos still.

    Args:
        clean: Weight of frames without noise.
        noise: Weight of frames of pure noise.
    """

    def __init__(self, clean: float = 0.1, noise: float = 1.0) -> None:
        if not (clean >= 0 and noise >= 0 and 0 < clean + noise < math.inf):
            raise ValueError(
                "Weights must be finite, 0 or above and not both 0, got "
                f"clean {clean} and noise {noise}."
            )
        super().__init__()
        self.clean, self.noise = clean, noise

    def forward(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self.clean * alpha.square() + self.noise * sigma.square()


class MinSNR(Weighting):
    """min(alpha² / sigma², gamma), which turns an error of x_0 into one of eps up to a bound.

    References:
        Efficient Diffusion Training via Min-SNR Weighting Strategy (Hang et al., ICCV 2023).

    Args:
        gamma: The largest weight.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        if not gamma > 0:
            raise ValueError(f"gamma must be above 0, got {gamma}.")
        super().__init__()
        self.gamma = gamma

    def forward(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha / sigma).square().clamp(max=self.gamma)


class InverseVariance(Weighting):
    """min(1 / sigma², most): an error of x_0 counts as that of v, as in JiT (Li and He, 2025).

    Args:
        most: The largest weight.
    """

    def __init__(self, most: float = 20.0) -> None:
        if not most >= 1:
            raise ValueError(f"most must be 1, the weight of pure noise, or above, got {most}.")
        super().__init__()
        self.most = most

    def forward(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return sigma.square().reciprocal().clamp(max=self.most)


class LearnedVariance(Weighting):
    """exp(m - u), with a log-variance u per noise level that is learned beside the network.

    Minimised is exp(m) (error / exp(u) + u), so that u becomes the logarithm of the mean error and
    all levels come to count alike, however large their errors are. u is a sum of cosines of
    log(sigma / alpha); m is its constant part, without gradient: with it the gradients of the
    network are about as large as with other weights, and clipped alike. u is 0, and all weights 1,
    at first; checkpoints hold it to go on from.

    References:
        Multi-Task Learning Using Uncertainty to Weigh Losses (Kendall et al., CVPR 2018), and the
        training of EDM2 (Karras et al., CVPR 2024).

    Args:
        cosines: Number of cosines. The more, the finer levels are told apart.
    """

    farthest = 6.0  # log(sigma / alpha) beyond which levels are not told apart
    speed = 16.0  # of u by the network's learning rate, at which it would come too late

    def __init__(self, cosines: int = 16) -> None:
        super().__init__()
        if cosines < 1:
            raise ValueError(f"cosines must be at least 1, got {cosines}.")
        self.coefficients = nn.Parameter(torch.zeros(cosines))

    def log_variance(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return u of noise levels, shape of `alpha` and `sigma`."""
        place = (sigma / alpha).log().clamp(-self.farthest, self.farthest) / self.farthest
        order = torch.arange(len(self.coefficients), device=alpha.device)
        angle = math.pi / 2 * (rearrange(place, "... -> ... 1") + 1) * order  # (..., cosines)
        fixed = self.coefficients.detach()
        # Gradients that are `speed` times too small, and not too large, do not count in clipping.
        moving = self.speed * fixed + (self.coefficients - fixed) / self.speed
        return (angle.cos() * moving).sum(dim=-1)  # no product, which autocast rounds

    def forward(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self.scale() * (-self.log_variance(alpha, sigma)).exp()

    def scale(self) -> Tensor:
        """Return exp(m), without gradient."""
        return (self.speed * self.coefficients[0].detach()).exp()

    def weigh(self, errors: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return super().weigh(errors, alpha, sigma) + self.scale() * self.log_variance(alpha, sigma)
