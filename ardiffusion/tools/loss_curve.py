"""The losses of a training run, read from its folder, and how steady they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, get_type_hints

import numpy as np
from numpy.typing import ArrayLike
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ardiffusion.files import has_type, read_json_lines
from ardiffusion.training.spike_detector import LOG, SpikeDetector

LOSS, NORM = "train/loss", "train/grad_norm"
NORMAL = 1.4826  # standard deviations in a MAD of normal noise


class Line(TypedDict):
    """What is read of a step in a run's log; None is not finite."""

    step: int
    loss: float | None
    grad_norm: float | None
    bins: list[float | None]
    frames: list[float | None]
    skipped: bool


@dataclass(frozen=True)
class LossCurve:
    """Losses of a run by step, and rows of them by timestep and by frame; NaN is not finite."""

    name: str
    source: str
    skipped: int  # steps that were not finite
    steps: np.ndarray  # (steps,)
    losses: np.ndarray  # (steps,)
    norms: np.ndarray  # (steps,), of the gradient
    bins: np.ndarray  # (steps, bins)
    frames: np.ndarray  # (steps, F)

    def over(self, loss: float) -> "LossCurve":
        losses, bins, frames = (x / loss for x in (self.losses, self.bins, self.frames))
        return replace(self, losses=losses, bins=bins, frames=frames)


def read_curve(folder: Path, name: str) -> LossCurve:
    """Read a run's `stability.jsonl`, or what TensorBoard was told if that has no finite loss."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}: name the folder of a training run.")
    lines = read_json_lines(folder / LOG)
    if not all(has_type(line, Line) for line in lines):
        raise ValueError(f"{folder / LOG} is not what a run logs: name the folder of another run.")
    steps, losses, norms, bins, frames, skips = (
        [line[name] for line in lines] for name in get_type_hints(Line)
    )
    columns = numbers(steps), numbers(losses), numbers(norms), table(bins), table(frames)
    skipped = sum(skips)
    curve = LossCurve(name, LOG, skipped, *columns)
    if not len(finite(curve.losses)):
        curve = LossCurve(name, "TensorBoard", skipped, *read_events(folder))
    if not len(finite(curve.losses)):
        raise ValueError(
            f"{folder} holds no finite loss, neither in {LOG} nor in TensorBoard's events under "
            f"{LOSS}: name the folder of a training run."
        )
    return curve


def read_events(folder: Path) -> list[np.ndarray]:
    """Read steps, losses and norms from TensorBoard's events, the newest of each step."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    known = events.Tags()["scalars"]

    def values(tag: str) -> dict[int, float]:
        found = sorted(events.Scalars(tag), key=lambda e: e.wall_time) if tag in known else []
        return dict(sorted({event.step: event.value for event in found}.items()))

    losses, norms = values(LOSS), values(NORM)
    return [*map(numbers, (list(losses), list(losses.values()), list(norms.values()), [[]], [[]]))]


def numbers(values: ArrayLike) -> np.ndarray:
    """Make an array in which what is missing or infinite is NaN."""
    found = np.array(values, dtype=float)
    return np.where(np.isfinite(found), found, np.nan)


def table(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Make a matrix of rows, the shorter of which end with NaN: clips have more than pictures."""
    width = max(map(len, rows), default=0)
    return numbers([[*row, *[None] * (width - len(row))] for row in rows])


def finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def compare_with_past(losses: np.ndarray, rule: SpikeDetector) -> tuple[np.ndarray, np.ndarray]:
    """Return each loss's height above the running median in MADs, and its ratio to that.

    Both are NaN where too few losses are known before it.
    """
    heights, ratios = [], []
    for loss in losses.tolist():
        height, ratio = rule.add(loss), loss / (rule.level or math.nan)
        heights.append(height if math.isfinite(ratio) else math.nan)
        ratios.append(ratio)
    return np.array(heights), np.array(ratios)


def fluctuation(losses: np.ndarray) -> float:
    """Return the robust deviation of losses from their median, relative to it."""
    median = np.median(losses)
    return float(NORMAL * np.median(np.abs(losses - median)) / median)


def steadiness(curve: LossCurve, rule: SpikeDetector) -> tuple[dict[str, Any], np.ndarray]:
    """Measure how steady a run is, and say of each of its losses if it is a spike.

    But for the final loss no number has the scale of the losses.
    """
    final = float(np.median(finite(curve.losses)[-rule.window :]))
    if final <= 0:
        raise ValueError(
            f"The losses of {curve.name} end at {final:g}, and no figure is relative to a loss "
            "that is not above 0: leave this run out."
        )
    heights, ratios = compare_with_past(curve.losses, rule)
    count, spikes = len(curve.losses), heights > rule.height
    norms, late = finite(curve.norms), finite(ratios[count // 2 :])
    tail = np.quantile(norms, 0.99, method="inverted_cdf") if len(norms) else 0.0
    row = {
        "name": curve.name,
        "source": curve.source,
        "steps": int(curve.steps[-1]),
        "losses": count,  # that were read, which may be fewer than steps
        "final_loss": final,  # median of the last ones, as many as the window
        # robust relative deviation from the running median over the last half, so that neither
        # the trend nor single spikes count
        "fluctuation": fluctuation(late) if len(late) else None,
        "spikes": int(spikes.sum()),
        "spikes_per_1000": float(1000 * spikes.sum() / count),
        "largest": float(np.nanmax(heights)) if len(finite(heights)) else None,  # in MADs
        "skipped": curve.skipped,
        "norm_ratio": float(tail / np.median(norms)) if np.any(norms) else None,  # p99 / median
    }
    return row, spikes
