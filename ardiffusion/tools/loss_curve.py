"""The losses of a training run, read from its folder, and how steady they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ardiffusion.training.callbacks.stability import LOG
from ardiffusion.training.spikes import Spikes
from ardiffusion.training.step_log import StepLog

LOSS, NORM = "train/loss", "train/grad_norm"
NORMAL = 1.4826  # standard deviations in a MAD of normal noise


@dataclass
class LossCurve:
    """Losses of a run by step; NaN where they are not finite, rows of bins and frames if known."""

    name: str
    source: str
    steps: list[int]
    losses: list[float]
    norms: list[float]
    skipped: int = 0
    bins: list[list[float]] = field(default_factory=list)
    frames: list[list[float]] = field(default_factory=list)


@dataclass
class Steadiness:
    """How steady a run is; but for `final_loss` no number has the scale of its loss.

    Attributes:
        name: The run.
        source: What its losses were read from.
        steps: Its last step.
        losses: Losses that were read, which may be fewer than steps.
        final_loss: Median of the last losses, as many as the window.
        fluctuation: Relative standard deviation of the losses about their running median over the
            last half of the run, 1.4826 MAD / median of loss / running median, so that neither
            the trend nor single spikes count.
        spikes: Losses further above the running median than a spike must be.
        spikes_per_1000: Spikes per 1000 losses.
        largest: Height of the highest loss above the running median, in MADs.
        skipped: Steps skipped because they were not finite.
        norm_ratio: 99th percentile of the gradient's norm over its median.
    """

    name: str
    source: str
    steps: int
    losses: int
    final_loss: float
    fluctuation: float | None
    spikes: int
    spikes_per_1000: float
    largest: float | None
    skipped: int
    norm_ratio: float | None


def read_curve(folder: Path, name: str) -> LossCurve:
    """Read a run's `stability.jsonl`, or what TensorBoard was told if that has no finite loss.

    Raises:
        ValueError: If the folder holds neither, or no finite loss.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}: name the folder of a training run.")
    log = folder / LOG
    curve = read_log(log, name=name) if log.exists() else None
    if curve is None or not finite(curve.losses):
        skipped = curve.skipped if curve else 0
        curve = replace(read_events(folder, name=name), skipped=skipped)
    if not finite(curve.losses):
        raise ValueError(
            f"{folder} holds no finite loss, neither in {LOG} nor in TensorBoard's events under "
            f"{LOSS}: name the folder of a training run."
        )
    return curve


def read_log(file: Path, name: str) -> LossCurve:
    """Read what the Stability callback wrote."""
    lines = StepLog(file).lines()
    return LossCurve(
        name=name,
        source=LOG,
        steps=[line["step"] for line in lines],
        losses=numbers([line["loss"] for line in lines]),
        norms=numbers([line["grad_norm"] for line in lines]),
        skipped=sum(line["skipped"] for line in lines),
        bins=[numbers(line["bins"]) for line in lines],
        frames=[numbers(line["frames"]) for line in lines],
    )


def read_events(folder: Path, name: str) -> LossCurve:
    """Read TensorBoard's events, the newest of each step."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    known = events.Tags()["scalars"]

    def values(tag: str) -> dict[int, float]:
        found = sorted(events.Scalars(tag), key=lambda e: e.wall_time) if tag in known else []
        return {event.step: event.value for event in found}

    losses, norms = values(LOSS), values(NORM)
    steps = sorted(losses)
    return LossCurve(
        name=name,
        source="TensorBoard",
        steps=steps,
        losses=numbers([losses[step] for step in steps]),
        norms=list(norms.values()),
    )


def numbers(values: Sequence[float | None]) -> list[float]:
    """Replace what is missing or infinite by NaN."""
    return [math.nan if v is None or not math.isfinite(v) else v for v in values]


def finite(values: Sequence[float]) -> list[float]:
    """Drop NaN."""
    return [v for v in values if math.isfinite(v)]


def heights(curve: LossCurve, rule: Spikes) -> tuple[list[float], list[float | None]]:
    """Return each loss's height in MADs, and its ratio to the running median if there is one."""
    found, ratios = [], []
    for loss in curve.losses:
        level = rule.level()
        ratios.append(loss / level if level and math.isfinite(loss) else None)
        found.append(rule.add(loss))
    return found, ratios


def steadiness(curve: LossCurve, window: int, height: float) -> Steadiness:
    """Measure how steady a run is.

    Raises:
        ValueError: If its losses lie around 0 or below, where nothing is relative to them.
    """
    rule = Spikes(window, height=height)
    found, ratios = heights(curve, rule)
    known = [h for h, ratio in zip(found, ratios, strict=True) if ratio is not None]
    late = [ratio for ratio in ratios[len(ratios) // 2 :] if ratio is not None]
    final = median(finite(curve.losses)[-window:])
    if final <= 0:
        raise ValueError(
            f"The losses of {curve.name} end at {final:g}, and no figure is relative to a loss "
            "that is not above 0: leave this run out."
        )
    spikes = sum(map(rule.is_spike, found))
    return Steadiness(
        name=curve.name,
        source=curve.source,
        steps=curve.steps[-1],
        losses=len(curve.losses),
        final_loss=final,
        fluctuation=relative_spread(late) if late else None,
        spikes=spikes,
        spikes_per_1000=1000 * spikes / len(curve.losses),
        largest=max(known, default=None),
        skipped=curve.skipped,
        norm_ratio=tail(finite(curve.norms)),
    )


def relative_spread(values: Sequence[float]) -> float:
    """Return the robust standard deviation over the median."""
    middle = median(values)
    return NORMAL * median(abs(v - middle) for v in values) / middle


def tail(values: Sequence[float]) -> float | None:
    """Return the 99th percentile over the median."""
    if not values or not median(values):
        return None
    return sorted(values)[math.ceil(0.99 * len(values)) - 1] / median(values)
