"""Plots as pictures, drawn by matplotlib: panels of curves, and how runs train.

The losses of runs are drawn as in the supplement's Figures 1 and 2: a panel per run with the same
axes, then losses by timestep and by frame.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ardiffusion.files import atomic_write
from ardiffusion.tools.loss_curve import LossCurve

if TYPE_CHECKING:  # an extra, which is imported when there is something to draw
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE, DPI = (4.4, 3.0), 100  # of a panel, in inches, and its pixels per inch
# Told apart by colour-blind people too: Okabe and Ito's but black and yellow, and two dark ones.
COLOURS = "#0072b2 #d55e00 #009e73 #cc79a7 #e69f00 #56b4e9 #332288 #882255".split()
PALE = 0.35  # opacity of a curve below its running mean
INK, GRID = "#222222", "#dddddd"
MARKS = [float(f"{mark}e{power}") for power in range(-30, 31) for mark in (1, 2, 5)]

Curves = Mapping[str, Sequence[tuple[float, float]]]


def make_panels(count: int, columns: int) -> "tuple[Figure, list[Axes]]":
    """Make a figure of empty panels, row after row, that no window shows."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("Plots need matplotlib: pip install 'ardiffusion[plots]'.") from error
    rows = -(-count // columns)
    figure = Figure((columns * SIZE[0], rows * SIZE[1]), dpi=DPI, layout="constrained")
    panels = [figure.add_subplot(rows, columns, place + 1) for place in range(count)]
    for panel in panels:
        panel.spines[["top", "left", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="y", color=GRID)
        panel.set_axisbelow(True)
    return figure, panels


def draw_curves(panel: "Axes", curves: Curves, names: Sequence[str]) -> None:
    """Draw curves as lines with dots, each in the colour of its place among the names."""
    for name, points in curves.items():
        colour = COLOURS[names.index(name) % len(COLOURS)]
        x, y = zip(*sorted(points), strict=True)
        panel.plot(x, y, "o-", markersize=5, color=colour, label=name, clip_on=False)


def caption(panel: "Axes", title: str, x_label: str) -> None:
    """Write what a panel shows, and name its curves below the title."""
    panel.set_title(title, loc="left", pad=26, fontsize=10)
    panel.set_xlabel(x_label, fontsize=9)
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.3}
    panel.legend(**place, ncols=9, frameon=False, fontsize=9)


def log_heights(panel: "Axes", values: Sequence[float]) -> None:
    """Make the vertical axis logarithmic, from and to 1, 2 or 5 times a power of ten."""
    low = max(mark for mark in MARKS if mark <= min(values))
    high = min(mark for mark in MARKS if mark >= max(values) and mark > low)
    ticks = [mark for mark in MARKS if low <= mark <= high]
    if len(ticks) > 8:
        ticks = [tick for tick in ticks if f"{tick:e}".startswith("1.")]
    panel.set_yscale("log")
    panel.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
    panel.set_ylim(low, high)


def save_figure(figure: "Figure", path: str | Path) -> None:
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png")


def draw_runs(curves: Sequence[LossCurve], spikes: Sequence[np.ndarray], width: int) -> "Figure":
    """Draw the losses of runs, relative to their final ones, with a running mean over `width`.

    Spikes say of each loss of each run whether it is marked.
    """
    names = [curve.name for curve in curves]
    by_bin = late_profiles({c.name: c.bins for c in curves}, lambda i, count: (i + 0.5) / count)
    by_frame = late_profiles({c.name: c.frames for c in curves}, lambda i, _: i)
    count = len(curves) + bool(by_bin) + bool(by_frame)
    columns = count if count < 4 else 2 if len(curves) in (2, 4) else 3
    figure, panels = make_panels(count, columns=columns)
    every = [loss for curve in curves for loss in curve.losses[curve.losses > 0]]
    end = max(curve.steps[-1] for curve in curves)
    for i, (curve, marked) in enumerate(zip(curves, spikes, strict=True)):
        draw_run(panels[i], curve, marked, width=width, colour=COLOURS[i % len(COLOURS)])
        log_heights(panels[i], every)
        panels[i].set_xlim(-0.02 * end, 1.02 * end)
    title = "Loss by {}, last half / final loss"
    if by_bin:
        panel = panels[len(curves)]
        draw_curves(panel, by_bin, names)
        log_heights(panel, [loss for points in by_bin.values() for _, loss in points])
        panel.set_xlim(0, 1)
        caption(panel, title.format("timestep"), x_label="timestep t / T, 1 is noise")
    if by_frame:
        draw_curves(panels[-1], by_frame, names)
        panels[-1].set_ylim(bottom=0)
        caption(panels[-1], title.format("frame"), x_label="frame")
    return figure


def draw_run(panel: "Axes", curve: LossCurve, spikes: np.ndarray, width: int, colour: str) -> None:
    """Draw losses lightly, their running mean darkly, and mark the spikes."""
    shown = curve.losses > 0  # on a logarithmic axis
    steps, losses = curve.steps[shown], curve.losses[shown]
    mean = running_mean(losses, width)
    panel.plot(steps, losses, color=colour, alpha=PALE, linewidth=0.75, label="loss")
    panel.plot(steps, mean, color=colour, linewidth=2, label=f"mean of {width}")
    count = f"{spikes.sum()} spike{'' if spikes.sum() == 1 else 's'}"
    panel.plot(curve.steps[spikes], curve.losses[spikes], "o", color=INK, ms=4, label=count)
    panel.xaxis.set_major_formatter(lambda value, _: label(value))
    caption(panel, f"{curve.name}: loss / final loss", x_label="optimiser step")


def label(value: float) -> str:
    """Write the number of a tick, thousands as k where there are many."""
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Average each value with its neighbours, `width` in all, or as many as there are."""
    sums, counts = (np.convolve(each, np.ones(width)) for each in (values, np.ones_like(values)))
    return (sums / counts)[(width - 1) // 2 :][: len(values)]


def late_profiles(rows: Mapping[str, np.ndarray], place: Callable[[int, int], float]) -> Curves:
    """Average the columns of the last half of each run's rows over what is finite and above 0."""
    found = {}
    for name, values in rows.items():
        means = np.ma.masked_invalid(values[len(values) // 2 :]).mean(axis=0).filled(np.nan)
        found[name] = [(place(i, len(means)), mean) for i, mean in enumerate(means) if mean > 0]
    return {name: points for name, points in found.items() if points}
