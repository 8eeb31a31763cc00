"""Finds spikes in losses, while a run trains and when its log is read; knows no Lightning."""

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

LOG = "stability.jsonl"  # of a run's folder: a line per optimiser step
WINDOW, HEIGHT = 200, 10.0
FLOOR = 1e-3  # of the median: where losses hardly differ, what is less than that is no spike


class SpikeDetector:
    """Finds spikes in a sequence of losses: those far above the running median, counted in MADs.

        height_i = (x_i - median(w)) / MAD(w),   MAD(w) = median |w - median(w)|,

    with w the last finite losses before x_i. Median and MAD are scale-free together, and half of
    the window may be spikes before they notice.

    A height of 10 MADs lies 6.7 standard deviations out in normal noise, but losses have heavier
    tails: of 1000 steps without any instability 0.5 rise so high if their noise is Laplace's. At
    6 MADs it would be 8, which hides the few spikes that matter.

    Args:
        window: Losses that median and MAD are taken of; a quarter of them must be there.
        height: MADs above the median from which on a loss is a spike.

    Attributes:
        level: The median that the last loss was compared with; NaN if too few were known.
    """

    def __init__(self, window: int = WINDOW, height: float = HEIGHT) -> None:
        if window < 4:
            raise ValueError(f"A median needs a window of 4 losses or more, got {window}.")
        if not height > 0:
            raise ValueError(f"A spike must lie above the median: height {height} is not above 0.")
        self.window, self.height = window, height
        self.restore(())

    def restore(self, losses: Iterable[float]) -> None:
        """Take losses as the recent ones; the window may be shorter than when they were noted."""
        self.recent, self.level = deque(losses, maxlen=self.window), math.nan

    def add(self, loss: float) -> float:
        """Return the height of a loss, 0 while too few are known, and remember it if finite."""
        known = len(self.recent) * 4 >= self.window
        level = self.level = median(self.recent) if known else math.nan
        height = 0.0
        if math.isfinite(level - loss):
            mad = median(abs(x - level) for x in self.recent)
            spread = max(mad, FLOOR * abs(level))
            height = (loss - level) / spread if spread else 0.0
        if math.isfinite(loss):
            self.recent.append(loss)
        return height

    def is_spike(self, height: float) -> bool:
        return height > self.height
