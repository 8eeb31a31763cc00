"""How much the error of a frame counts in the loss, by its noise level.

    loss = mean over frames of w_f |target_f - network(x_t, t)_f|²

The paper weighs all levels alike. Which levels matter is an open question with answers in both
directions, so each is a class; only the ratio of two weights matters to Adam.
"""

import math
from abc import ABC, abstractmethod

from torch import Tensor


class Weighting(ABC):
    """Weighs noise levels against each other."""

    @abstractmethod
    def __call__(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return a weight per noise level, shape of `alpha` and `sigma`."""


class Uniform(Weighting):
    """All noise levels count alike, as in the paper."""

    def __call__(self, alpha: Tensor, sigma: Tensor) -> Tensor:
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
        self.clean, self.noise = clean, noise

    def __call__(self, alpha: Tensor, sigma: Tensor) -> Tensor:
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
        self.gamma = gamma

    def __call__(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha / sigma).square().clamp(max=self.gamma)


class InverseVariance(Weighting):
    """min(1 / sigma², most): an error of x_0 counts as that of v, as in JiT (Li and He, 2025).

    Args:
        most: The largest weight.
    """

    def __init__(self, most: float = 20.0) -> None:
        if not most >= 1:
            raise ValueError(f"most must be 1, the weight of pure noise, or above, got {most}.")
        self.most = most

    def __call__(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return sigma.square().reciprocal().clamp(max=self.most)
