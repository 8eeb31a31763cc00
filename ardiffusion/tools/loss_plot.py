"""Pictures of loss curves (supplement, Figures 1 and 2), relative to each run's final loss."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from PIL import Image

from ardiffusion.tools.axes import Scale, decades, from_zero
from ardiffusion.tools.loss_curve import LossCurve, finite, heights
from ardiffusion.tools.plot import COLOURS, INK, PALE, Panel, Points, Style, line_plot
from ardiffusion.training.spikes import Spikes

COLUMNS = 700  # more points than a panel has pixels are thinned out


def draw_runs(
    curves: Sequence[LossCurve], finals: Sequence[float], window: int, height: float
) -> Image.Image:
    """Draw a panel per run with the same axes, then losses by timestep and by frame.

    Args:
        curves: The runs.
        finals: Their final losses, which everything is divided by.
        window: Losses of the running median; the running mean is that of a quarter as many.
        height: MADs from which on a loss is marked as a spike.
    """
    end = max(curve.steps[-1] for curve in curves)
    points = [relative(curve, final) for curve, final in zip(curves, finals, strict=True)]
    scale = decades([y for run in points for _, y in run])
    steps = from_zero([end])
    panels = [
        run_panel(
            curve,
            points=run,
            spikes=spikes_of(curve, final=final, rule=Spikes(window, height=height)),
            width=max(window // 4, 1),
            colours=(COLOURS[i % len(COLOURS)], PALE[i % len(PALE)]),
            axes=(steps, scale),
        )
        for i, (curve, final, run) in enumerate(zip(curves, finals, points, strict=True))
    ]
    panels += profiles(curves, finals)
    per_row = len(panels) if len(panels) < 4 else 2 if len(curves) in (2, 4) else 3
    return line_plot(panels, columns=per_row)


def relative(curve: LossCurve, final: float) -> list[tuple[float, float]]:
    """Return the points of a curve over its final loss, as far as a logarithm shows them."""
    pairs = zip(curve.steps, curve.losses, strict=True)
    return [(step, loss / final) for step, loss in pairs if loss > 0]


def spikes_of(curve: LossCurve, final: float, rule: Spikes) -> list[tuple[float, float]]:
    """Return the points of a curve that are spikes."""
    found = zip(curve.steps, curve.losses, heights(curve, rule)[0], strict=True)
    return [(step, loss / final) for step, loss, height in found if rule.is_spike(height)]


def run_panel(
    curve: LossCurve,
    points: Points,
    spikes: Points,
    width: int,
    colours: tuple[str, str],
    axes: tuple[Scale, Scale],
) -> Panel:
    """Draw losses lightly, their running mean darkly, and mark the spikes."""
    steps, scale = axes
    smooth = f"mean of {width}"
    count = f"{len(spikes)} spike{'' if len(spikes) == 1 else 's'}"
    return Panel(
        title=f"{curve.name}: loss / final loss",
        x_label="optimiser step",
        curves={"loss": thin(points), smooth: thin(running_mean(points, width)), count: spikes},
        styles={
            "loss": Style(line=0.75, dot=0, colour=colours[1]),
            smooth: Style(line=2, dot=0, colour=colours[0]),
            count: Style(line=0, dot=3, colour=INK),
        },
        x=lambda _: steps,
        y=lambda _: scale,
    )


def running_mean(points: Points, width: int) -> list[tuple[float, float]]:
    """Average each value with its neighbours, `width` in all, or as many as there are."""
    sums = list(accumulate((y for _, y in points), initial=0.0))
    means = []
    for i, (step, _) in enumerate(points):
        first, last = max(i - width // 2, 0), min(i - width // 2 + width, len(points))
        means.append((step, (sums[last] - sums[first]) / (last - first)))
    return means


def thin(points: Points, columns: int = COLUMNS) -> list[tuple[float, float]]:
    """Keep the lowest and highest point of each column, so that no spike is lost."""
    size = math.ceil(len(points) / columns)
    if size < 3:
        return list(points)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [p for g in groups for p in sorted({min(g, key=value), max(g, key=value)})]


def value(point: tuple[float, float]) -> float:
    """Return the height of a point."""
    return point[1]


def profiles(curves: Sequence[LossCurve], finals: Sequence[float]) -> list[Panel]:
    """Draw the mean loss by timestep and by frame over the last half of each run that has them."""

    def lines(
        rows: Callable[[LossCurve], list[list[float]]],
        place: Callable[[int, int], float],
    ) -> dict[str, list[tuple[float, float]]]:
        found = {}
        for curve, final in zip(curves, finals, strict=True):
            means = [m / final for m in late_means(rows(curve))]
            found[curve.name] = [(place(i, len(means)), m) for i, m in enumerate(means) if m > 0]
        return {name: points for name, points in found.items() if points}

    by_bin = lines(lambda c: c.bins, place=lambda i, count: (i + 0.5) / count)
    by_frame = lines(lambda c: c.frames, place=lambda i, _: i)
    noise = Scale([0, 0.2, 0.4, 0.6, 0.8, 1], low=0.0, high=1.0)
    names = [curve.name for curve in curves]
    title = "Loss by {}, last half / final loss"
    panels = []
    if by_bin:
        panels.append(
            Panel(
                title.format("timestep"),
                x_label="timestep t / T, 1 is noise",
                curves=by_bin,
                styles=styles(names),
                x=lambda _: noise,
                y=decades,
            )
        )
    if by_frame:
        panels.append(
            Panel(
                title.format("frame"),
                x_label="frame",
                curves=by_frame,
                styles=styles(names),
                x=frame_axis,
            )
        )
    return panels


def frame_axis(frames: Sequence[float]) -> Scale:
    """Make a linear axis with at most nine frames named on it."""
    last = max(frames)
    step = math.ceil((last + 1) / 9)
    return Scale([float(i) for i in range(0, int(last) + 1, step)], low=0.0, high=last or 1.0)


def styles(names: Sequence[str]) -> Mapping[str, Style]:
    """Give each run the colour of its own panel."""
    return {name: Style(colour=COLOURS[i % len(COLOURS)]) for i, name in enumerate(names)}


def late_means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Average the columns of the last half of the rows over what is finite; NaN if nothing is."""
    columns = zip(*rows[len(rows) // 2 :], strict=True)
    kept = [finite(column) for column in columns]
    return [sum(column) / len(column) if column else math.nan for column in kept]
