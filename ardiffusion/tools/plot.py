"""Line plots as pictures: panels side by side, logarithmic to the right, from zero upwards."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

SCALE = 4  # drawn so many times larger than shown, for smooth lines
WIDTH, HEIGHT = 440, 300  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 62, 46
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # told apart by colour-blind people too
INK, GRID = "#222222", "#dddddd"


class Panel(NamedTuple):
    """One plot: points (x, y) by the name of their curve, x > 0 and y >= 0."""

    title: str
    x_label: str
    curves: Mapping[str, Sequence[tuple[float, float]]]


def line_plot(panels: Sequence[Panel]) -> Image.Image:
    """Draw panels side by side; a colour stands for the same place in each panel's curves."""
    size = (SCALE * WIDTH * len(panels), SCALE * HEIGHT)
    picture = Image.new("RGB", size, "white")
    for i, panel in enumerate(panels):
        draw_panel(ImageDraw.Draw(picture), panel, left=i * WIDTH)
    return picture.reduce(SCALE)


def draw_panel(draw: ImageDraw.ImageDraw, panel: Panel, left: int) -> None:
    """Draw a panel whose left edge lies at `left`."""
    points = [point for curve in panel.curves.values() for point in curve]
    ticks = y_ticks(max(y for _, y in points))
    lowest, highest = min(x for x, _ in points), max(x for x, _ in points)
    span = math.log(highest / lowest) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        right = math.log(x / lowest) / span * (WIDTH - LEFT - RIGHT - 16) + 8
        up = y / ticks[-1] * (HEIGHT - TOP - BOTTOM)
        return SCALE * (left + LEFT + right), SCALE * (HEIGHT - BOTTOM - up)

    edges = SCALE * (left + LEFT), SCALE * (left + WIDTH - RIGHT)
    write(draw, (edges[0], 14 * SCALE), panel.title, anchor="lm", size=14)
    for y in ticks:
        height = place(lowest, y)[1]
        draw.line([(edges[0], height), (edges[1], height)], fill=GRID if y else INK, width=SCALE)
        write(draw, (edges[0] - 6 * SCALE, height), f"{y:g}", anchor="rm")
    for x in sorted({x for x, _ in points}):
        right, bottom = place(x, 0)
        draw.line([(right, bottom), (right, bottom + 4 * SCALE)], fill=INK, width=SCALE)
        write(draw, (right, bottom + 12 * SCALE), f"{x:g}", anchor="mm")
    middle = sum(edges) / 2, SCALE * (HEIGHT - 12)
    write(draw, middle, panel.x_label, anchor="mm")
    key = edges[0]
    for (name, curve), colour in zip(panel.curves.items(), cycle(COLOURS), strict=False):
        draw_curve(draw, [place(x, y) for x, y in sorted(curve)], colour=colour)
        draw_curve(draw, [(key, 38 * SCALE), (key + 20 * SCALE, 38 * SCALE)], colour=colour)
        key = write(draw, (key + 28 * SCALE, 38 * SCALE), name, anchor="lm") + 20 * SCALE


def draw_curve(
    draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], colour: str
) -> None:
    """Draw a line with a dot at each point."""
    draw.line(points, fill=colour, width=2 * SCALE, joint="curve")
    for point in points:
        draw.circle(point, radius=3.5 * SCALE, fill=colour)


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    anchor: str,
    size: int = 12,
) -> float:
    """Write a line of text and return where it ends on the right."""
    font = ImageFont.load_default(size * SCALE)
    draw.text(place, text, fill=INK, font=font, anchor=anchor)
    return draw.textbbox(place, text, font=font, anchor=anchor)[2]


def y_ticks(highest: float) -> list[float]:
    """Return three to six round numbers from 0 that reach up to `highest` or just above."""
    if highest <= 0:
        return [0.0, 0.5, 1.0]
    power = 10.0 ** math.floor(math.log10(highest / 5))
    step = next(m * power for m in (1, 2, 5, 10) if m * power * 5 >= highest * (1 - 1e-9))
    return [i * step for i in range(math.ceil(highest / step - 1e-9) + 1)]
