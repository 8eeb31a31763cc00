"""What the network predicts: the clean latent x, the noise eps, or v = alpha_t eps - sigma_t x.

AR-Diffusion predicts x (supplement, section A); eps and v serve its baselines.
"""

from abc import ABC, abstractmethod

from torch import Tensor

X0Eps = tuple[Tensor, Tensor]


class Target(ABC):
    """Turns clean latents and noise into a regression target, and a prediction back into both."""

    @abstractmethod
    def from_clean(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the regression target, shape of `x`."""

    @abstractmethod
    def to_x0_eps(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> X0Eps:
        """Return the clean latents and the noise that the network's output stands for."""


class X0(Target):
    """The network predicts the clean latent x_0, the paper's choice."""

    def from_clean(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x

    def to_x0_eps(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> X0Eps:
        return output, (x_t - alpha * output) / sigma


class Epsilon(Target):
    """The network predicts the noise, as in DDPM (Ho et al., 2020)."""

    def from_clean(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return noise

    def to_x0_eps(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> X0Eps:
        return (x_t - sigma * output) / alpha, output


class Velocity(Target):
    """The network predicts v = alpha_t eps - sigma_t x (Salimans and Ho, 2022)."""

    def from_clean(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * noise - sigma * x

    def to_x0_eps(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> X0Eps:
        return alpha * x_t - sigma * output, alpha * output + sigma * x_t
