import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from PIL import Image

from ardiffusion.tools.plot import (
    COLOURS,
    INK,
    PALE,
    caption,
    draw_curves,
    label,
    log_heights,
    make_panels,
    save_figure,
)


def empty_panel() -> Axes:
    return make_panels(1, columns=1)[1][0]


def texts(panel: Axes) -> list[str]:
    panel.figure.draw_without_rendering()  # pyright: ignore[reportAttributeAccessIssue]
    return [label.get_text() for label in panel.get_yticklabels()]


@pytest.mark.parametrize("low", [0.0003, 0.02, 0.9, 1.0, 70.0])
@pytest.mark.parametrize("ratio", [1.0, 1.5, 30.0, 1e4, 1e6])
def test_logarithmic_axis_holds_all_values_and_few_ticks(low: float, ratio: float) -> None:
    panel = empty_panel()
    log_heights(panel, [low * ratio, low])
    bottom, top = panel.get_ylim()
    assert panel.get_yscale() == "log" and bottom <= low <= low * ratio <= top and bottom < top
    shown = {tick for tick in panel.get_yticks() if bottom <= tick <= top}
    assert 1 <= len(shown) <= 8 and not len(panel.get_yticks(minor=True))
    assert {f"{tick:e}"[:8] for tick in shown} <= {f"{mark}.000000" for mark in (1, 2, 5)}
    assert {f"{tick:g}" for tick in shown} == set(texts(panel))


def test_each_curve_has_the_colour_of_its_name_and_is_drawn_left_to_right() -> None:
    panel = empty_panel()
    draw_curves(panel, {"b": [(2.0, 5.0), (1.0, 3.0)]}, names=["a", "b"])
    caption(panel, "title", x_label="x")
    (line,) = panel.get_lines()
    assert (line.get_color(), line.get_label()) == (COLOURS[1], "b")
    assert line.get_xydata().tolist() == [[1.0, 3.0], [2.0, 5.0]]  # pyright: ignore
    assert panel.get_title(loc="left") == "title" and panel.get_xlabel() == "x"
    legend = panel.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["b"]


def test_panels_stand_in_rows(tmp_path: Path) -> None:
    figure, panels = make_panels(3, columns=2)
    for panel in panels:
        draw_curves(panel, {"a": [(1.0, 1.0), (2.0, 3.0)]}, names=["a"])
    save_figure(figure, tmp_path / "new" / "plot.png")
    with Image.open(tmp_path / "new" / "plot.png") as opened:
        picture = opened.convert("RGB")
    assert picture.size == (880, 600) and len(panels) == len(figure.axes) == 3
    tiles = [picture.crop((x, y, x + 440, y + 300)) for y in (0, 300) for x in (0, 440)]
    drawn = [len(tile.getcolors(1 << 20) or ()) > 20 for tile in tiles]
    assert drawn == [True, True, True, False]


def test_missing_matplotlib_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"pip install 'ardiffusion\[plots\]'"):
        make_panels(1, columns=1)


# What people see who lack the cones for red, or for green (Machado et al., 2009), in linear RGB.
SEEN = {
    "all": np.eye(3),
    "no red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def lab(rgb: Sequence[float] | np.ndarray, seen: np.ndarray) -> np.ndarray:
    """CIELAB of a colour as it is seen."""
    given = np.array(rgb)
    linear = np.where(given <= 0.04045, given / 12.92, ((given + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(matrix @ np.clip(seen @ linear, 0, 1) / np.array([0.9505, 1, 1.089]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eyes", SEEN)
def test_eight_colours_are_told_apart(eyes: str) -> None:
    found = [lab(to_rgb(colour), np.array(SEEN[eyes])) for colour in (*COLOURS, INK, "#ffffff")]
    assert len(COLOURS) == 8
    assert min(np.linalg.norm(a - b) for a, b in combinations(found, 2)) > 15
    dark = [np.array(to_rgb(colour)) for colour in COLOURS]
    light = [PALE * colour + 1 - PALE for colour in dark]
    assert min(lab(colour, np.eye(3))[0] for colour in light) > 70
    assert max(lab(colour, np.eye(3))[0] for colour in dark) < 72


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.25, "0.25"), (9500, "9500"), (40000, "40k"), (2e6, "2000k")]
)
def test_ticks_are_written_briefly(value: float, text: str) -> None:
    assert label(value) == text
