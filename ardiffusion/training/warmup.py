"""A learning rate that rises linearly, then falls along half a cosine."""

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmUpCosine(LambdaLR):
    """Learning rate schedule of short runs: warm-up, cosine decay, then constant.

    Args:
        optimizer: The optimiser.
        warm_up: Steps until the full learning rate.
        steps: Steps until the lowest learning rate; give what the trainer's max_steps says.
        lowest: The lowest learning rate, as a fraction of the full one.
    """

    def __init__(
        self, optimizer: Optimizer, warm_up: int = 100, steps: int = 1000, lowest: float = 0.01
    ) -> None:
        if not 0 <= warm_up < steps:
            raise ValueError(
                f"warm_up must be 0 or more and less than the {steps} steps, got {warm_up}."
            )
        if not 0 <= lowest <= 1:
            raise ValueError(f"lowest is a fraction of the learning rate, 0 to 1, got {lowest}.")
        rate = partial(fraction, warm_up=warm_up, steps=steps, lowest=lowest)
        super().__init__(optimizer, lr_lambda=rate)


def fraction(step: int, warm_up: int, steps: int, lowest: float) -> float:
    if step < warm_up:
        return (step + 1) / warm_up
    phase = min((step - warm_up) / (steps - warm_up), 1.0)
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * phase)) / 2
