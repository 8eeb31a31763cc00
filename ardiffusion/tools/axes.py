"""Axes of plots: which numbers are written, and where between the two ends a value lies."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple


def same(value: float) -> float:
    """Return the value, the transform of linear axes."""
    return value


class Scale(NamedTuple):
    """An axis from `low` to `high`, linear in `transform`."""

    ticks: Sequence[float]
    low: float
    high: float
    transform: Callable[[float], float] = same

    def share(self, value: float) -> float:
        """Return where a value lies, 0 at the low end and 1 at the high one."""
        low, high, at = (self.transform(v) for v in (self.low, self.high, value))
        return (at - low) / ((high - low) or 1.0)


def at_values(values: Sequence[float]) -> Scale:
    """Make a logarithmic axis with a tick at each value."""
    return Scale(sorted(set(values)), low=min(values), high=max(values), transform=math.log)


def from_zero(values: Sequence[float]) -> Scale:
    """Make a linear axis from 0 to a round number that no value exceeds."""
    ticks = round_ticks(max(values))
    return Scale(ticks, low=0.0, high=ticks[-1])


def decades(values: Sequence[float]) -> Scale:
    """Make a logarithmic axis with ticks at 1, 2 and 5 times powers of ten; values are above 0."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    marks = [float(f"{m}e{power}") for power in powers for m in (1, 2, 5)]
    first = max(i for i, mark in enumerate(marks) if mark <= low)
    last = min(i for i, mark in enumerate(marks) if mark >= high)
    ticks = marks[first : max(last, first + 1) + 1]
    shown = ticks if len(ticks) <= 8 else [t for t in ticks if f"{t:e}".startswith("1.")]
    return Scale(shown, low=ticks[0], high=ticks[-1], transform=math.log)


def round_ticks(highest: float) -> list[float]:
    """Return three to six round numbers from 0 that reach up to `highest` or just above."""
    if highest <= 0:
        return [0.0, 0.5, 1.0]
    power = 10.0 ** math.floor(math.log10(highest / 5))
    step = next(m * power for m in (1, 2, 5, 10) if m * power * 5 >= highest * (1 - 1e-9))
    return [i * step for i in range(math.ceil(highest / step - 1e-9) + 1)]
