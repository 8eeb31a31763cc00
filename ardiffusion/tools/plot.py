"""Plots as pictures: panels in rows, with lines and dots over linear or logarithmic axes."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from ardiffusion.tools.axes import Scale, at_values, from_zero

SCALE = 4  # drawn so many times larger than shown, for smooth lines
WIDTH, HEIGHT = 440, 300  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 62, 46
# Told apart by colour-blind people too: Okabe and Ito's but black and yellow, and two dark ones.
COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7"),
    *("#e69f00", "#56b4e9", "#332288", "#882255"),
)
PALE = (  # the same, light
    *("#a9d0ea", "#f6c9a4", "#a5dccb", "#ecd0de"),
    *("#f6dca4", "#c9e6f8", "#bbb5dc", "#dbb3c8"),
)
INK, GRID = "#222222", "#dddddd"

Points = Sequence[tuple[float, float]]


class Style(NamedTuple):
    """How a curve is drawn: width of its line, radius of its dots, and its colour if not next."""

    line: float = 2.0
    dot: float = 3.5
    colour: str | None = None


class Panel(NamedTuple):
    """One plot: points (x, y) by the name of their curve, later curves above earlier ones.

    `x` and `y` make axes for the values of all curves; two panels may share one.
    """

    title: str
    x_label: str
    curves: Mapping[str, Points]
    styles: Mapping[str, Style] = {}
    x: Callable[[Sequence[float]], Scale] = at_values
    y: Callable[[Sequence[float]], Scale] = from_zero


def line_plot(panels: Sequence[Panel], columns: int | None = None) -> Image.Image:
    """Draw panels in rows; a colour stands for the same place in each panel's curves.

    Args:
        panels: What to draw, row after row.
        columns: Panels per row; all in one if not given.
    """
    columns = columns or len(panels)
    rows = -(-len(panels) // columns)
    picture = Image.new("RGB", (SCALE * WIDTH * columns, SCALE * HEIGHT * rows), "white")
    for i, panel in enumerate(panels):
        # Each has a picture of its own, which cuts off what lies outside.
        tile = Image.new("RGB", (SCALE * WIDTH, SCALE * HEIGHT), "white")
        draw_panel(ImageDraw.Draw(tile), panel)
        picture.paste(tile, (i % columns * tile.width, i // columns * tile.height))
    return picture.reduce(SCALE)


def draw_panel(draw: ImageDraw.ImageDraw, panel: Panel) -> None:
    """Draw a panel: axes, then its curves and their names."""
    points = [point for curve in panel.curves.values() for point in curve]
    x_scale, y_scale = panel.x([x for x, _ in points]), panel.y([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        right = x_scale.share(x) * (WIDTH - LEFT - RIGHT - 16) + 8
        up = y_scale.share(y) * (HEIGHT - TOP - BOTTOM)
        return SCALE * (LEFT + right), SCALE * (HEIGHT - BOTTOM - up)

    edges = SCALE * LEFT, SCALE * (WIDTH - RIGHT)
    bottom = SCALE * (HEIGHT - BOTTOM)
    write(draw, (edges[0], 14 * SCALE), panel.title, anchor="lm", size=14)
    for y in y_scale.ticks:
        height = place(x_scale.low, y)[1]
        draw.line([(edges[0], height), (edges[1], height)], fill=GRID, width=SCALE)
        write(draw, (edges[0] - 6 * SCALE, height), label(y), anchor="rm")
    draw.line([(edges[0], bottom), (edges[1], bottom)], fill=INK, width=SCALE)
    for x in x_scale.ticks:
        right = place(x, y_scale.low)[0]
        draw.line([(right, bottom), (right, bottom + 4 * SCALE)], fill=INK, width=SCALE)
        write(draw, (right, bottom + 12 * SCALE), label(x), anchor="mm")
    write(draw, (sum(edges) / 2, SCALE * (HEIGHT - 12)), panel.x_label, anchor="mm")
    key, middle = edges[0], 38 * SCALE
    for (name, curve), next_colour in zip(panel.curves.items(), cycle(COLOURS), strict=False):
        style = panel.styles.get(name, Style())
        colour = style.colour or next_colour
        draw_curve(draw, [place(x, y) for x, y in sorted(curve)], style=style, colour=colour)
        sample = [(key, middle), (key + 20 * SCALE, middle)]
        if not style.line:
            sample = [(key + 10 * SCALE, middle)]
        draw_curve(draw, sample, style=style, colour=colour)
        key = write(draw, (key + 28 * SCALE, middle), name, anchor="lm") + 20 * SCALE


def draw_curve(draw: ImageDraw.ImageDraw, points: Points, style: Style, colour: str) -> None:
    """Draw a line, a dot at each point, or both."""
    if style.line and points:
        width = round(style.line * SCALE)
        draw.line(points, fill=colour, width=width, joint="curve")
    if style.dot:
        for point in points:
            draw.circle(point, radius=style.dot * SCALE, fill=colour)


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


def label(value: float) -> str:
    """Write the number of a tick, thousands as k where there are many."""
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"
