import math

import pytest
import torch
from torch.optim import SGD

from ardiffusion.training.warmup import WarmUpCosine


def rates(count: int, **options: float) -> list[float]:
    optimizer = SGD([torch.zeros(1)], lr=2.0)
    schedule = WarmUpCosine(optimizer, **options)  # pyright: ignore[reportArgumentType]
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_rate_rises_then_falls_along_half_a_cosine_then_stays() -> None:
    found = rates(12, warm_up=4, steps=10, lowest=0.1)
    assert found[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    falling = [0.2 + 1.8 * (1 + math.cos(math.pi * i / 6)) / 2 for i in range(6)]
    assert found[4:] == pytest.approx([*falling, 0.2, 0.2])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"warm_up": 9, "steps": 9}, "must be 0 or more and less than the 9 steps, got 9"),
        ({"warm_up": -1}, "must be 0 or more and less than the 1000 steps, got -1"),
        ({"lowest": -0.5}, r"lowest is a fraction of the learning rate, 0 to 1, got -0\.5"),
        ({"lowest": math.nan}, "0 to 1, got nan"),
    ],
)
def test_senseless_schedules_are_refused(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        rates(1, **options)
