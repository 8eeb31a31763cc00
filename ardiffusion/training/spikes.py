"""When a loss is a spike: how far it lies above the running median, in MADs.

    height_i = (x_i - median(w)) / MAD(w),   MAD(w) = median |w - median(w)|,

with w the last finite losses before x_i. Median and MAD are scale-free together, and half of the
window may be spikes before they notice.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from statistics import median

WINDOW = 200
HEIGHT = 10.0
FLOOR = 1e-3  # of the median: where losses hardly differ, what is less than that is no spike


class Spikes:
    """Finds spikes in a sequence of losses.

    A height of 10 MADs lies 6.7 standard deviations out in normal noise, but losses have heavier
    tails: of 1000 steps without any instability 0.5 rise so high if their noise is Laplace's. At
    6 MADs it would be 8, which hides the few spikes that matter.

    Args:
        window: Losses that median and MAD are taken of; a quarter of them must be there.
        height: MADs above the median from which on a loss is a spike.
    """

    def __init__(self, window: int = WINDOW, height: float = HEIGHT) -> None:
        if window < 4:
            raise ValueError(f"A median needs a window of 4 losses or more, got {window}.")
        if height <= 0:
            raise ValueError(f"A spike must lie above the median: height {height} is not above 0.")
        self.window, self.height = window, height
        self.recent: deque[float] = deque()
        self.sorted: list[float] = []  # the same losses

    def restore(self, losses: Iterable[float]) -> None:
        """Take losses as the recent ones; the window may be shorter than when they were noted."""
        self.recent = deque(list(losses)[-self.window :])
        self.sorted = sorted(self.recent)

    def level(self) -> float | None:
        """Return the running median; None while too few losses are there."""
        return median(self.sorted) if len(self.sorted) * 4 >= self.window else None

    def add(self, loss: float) -> float:
        """Return the height of a loss, 0 while too few are known, and remember it if finite."""
        level, height = self.level(), 0.0
        if level is not None and math.isfinite(loss):
            mad = median(abs(x - level) for x in self.sorted)
            spread = max(mad, FLOOR * abs(level))
            height = (loss - level) / spread if spread else 0.0
        if math.isfinite(loss):
            self.remember(loss)
        return height

    def is_spike(self, height: float) -> bool:
        """Say whether a loss so high above the median is a spike."""
        return height > self.height

    def remember(self, loss: float) -> None:
        """Let a loss take the place of the oldest one."""
        if len(self.recent) == self.window:
            del self.sorted[bisect_left(self.sorted, self.recent.popleft())]
        self.recent.append(loss)
        insort(self.sorted, loss)
