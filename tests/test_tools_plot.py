import math
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageColor

from ardiffusion.tools.axes import at_values, decades, from_zero, round_ticks
from ardiffusion.tools.plot import (
    COLOURS,
    HEIGHT,
    INK,
    PALE,
    WIDTH,
    Panel,
    Style,
    label,
    line_plot,
)


@pytest.mark.parametrize("highest", [0.0, 0.013, 0.5, 1.0, 3.0, 7.31, 10.0, 99.0, 101.0])
def test_ticks_are_few_and_reach_the_highest_value(highest: float) -> None:
    ticks = round_ticks(highest)
    assert 3 <= len(ticks) <= 6 and ticks[0] == 0
    assert ticks[-1] >= highest * (1 - 1e-6)
    assert highest == 0 or ticks[-2] < highest


@pytest.mark.parametrize("low", [0.0003, 0.02, 0.9, 1.0, 70.0])
@pytest.mark.parametrize("ratio", [1.0, 1.5, 30.0, 1e4, 1e6])
def test_logarithmic_axis_holds_all_values_and_few_ticks(low: float, ratio: float) -> None:
    scale = decades([low * ratio, low])
    assert scale.low <= low <= low * ratio <= scale.high > scale.low
    assert 1 <= len(scale.ticks) <= 8
    for tick in scale.ticks:
        assert scale.low <= tick <= scale.high
        assert f"{tick:e}"[:2] in ("1.", "2.", "5.") and f"{tick:e}"[2:8] == "000000"


def test_values_lie_where_their_logarithm_or_they_themselves_say() -> None:
    for scale in (decades([0.3, 40.0]), at_values([2.0, 50.0, 8.0])):
        span = math.log10(scale.high / scale.low)
        assert scale.share(7.0) == pytest.approx(math.log10(7.0 / scale.low) / span)
        assert (scale.share(scale.low), scale.share(scale.high)) == pytest.approx((0, 1))
    assert from_zero([3.0, 7.31]).share(2.5) == pytest.approx(2.5 / 8)


def colour_at(picture: Image.Image, colour: str, box: tuple[int, int, int, int]) -> list[int]:
    """List the rows of a box in which a colour appears."""
    part, wanted = picture.crop(box), ImageColor.getrgb(colour)
    columns, rows = range(part.width), range(part.height)
    return [y for y in rows if wanted in {part.getpixel((x, y)) for x in columns}]


def test_higher_curve_lies_above_the_lower_one() -> None:
    curves = {"low": [(8.0, 1.0), (50.0, 1.0)], "high": [(8.0, 4.0), (50.0, 4.0)]}
    picture = line_plot([Panel("title", "x", curves)] * 2)
    half, height = picture.width // 2, picture.height
    box = (half // 2, 60, half // 2 + 1, height)
    assert colour_at(picture, COLOURS[0], box)[0] > colour_at(picture, COLOURS[1], box)[0]
    left = picture.crop((0, 0, half, height))
    assert left.tobytes() == picture.crop((half, 0, 2 * half, height)).tobytes()


def test_panels_stand_in_rows() -> None:
    one = Panel("one", "x", {"a": [(1.0, 1.0), (2.0, 3.0)]})
    other = Panel("other", "x", {"a": [(1.0, 3.0), (2.0, 1.0)]})
    picture = line_plot([one, other, other], columns=2)
    assert picture.size == (2 * WIDTH, 2 * HEIGHT)
    right = picture.crop((WIDTH, 0, 2 * WIDTH, HEIGHT))
    below = picture.crop((0, HEIGHT, WIDTH, 2 * HEIGHT))
    assert right.tobytes() == below.tobytes() != picture.crop((0, 0, WIDTH, HEIGHT)).tobytes()
    assert picture.crop((WIDTH, HEIGHT, 2 * WIDTH, 2 * HEIGHT)).getcolors() == [
        (WIDTH * HEIGHT, (255, 255, 255))
    ]


def test_lines_and_dots_may_be_left_out() -> None:
    points = [(1.0, 1.0), (3.0, 1.0)]
    middle = (WIDTH // 2 - 5, 60, WIDTH // 2 + 5, HEIGHT)
    ends = (50, 60, 75, HEIGHT)
    for style, line, dots in ((Style(dot=0), 1, 0), (Style(line=0), 0, 1), (Style(), 1, 1)):
        panel = Panel("", "", {"a": points}, styles={"a": style}, x=from_zero)
        picture = line_plot([panel])
        assert bool(colour_at(picture, COLOURS[0], middle)) == bool(line)
        first = (picture.width - 150, 60, picture.width, HEIGHT)
        assert (len(colour_at(picture, COLOURS[0], first)) > 4) == bool(dots)
        assert not colour_at(picture, COLOURS[0], ends)
    empty = Panel("", "", {"a": points, "none": []}, styles={"a": Style(colour="#123456")})
    assert colour_at(line_plot([empty]), "#123456", middle)


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


def lab(colour: str, seen: np.ndarray) -> np.ndarray:
    """CIELAB of a colour as it is seen."""
    rgb = np.array(ImageColor.getrgb(colour)) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(matrix @ np.clip(seen @ linear, 0, 1) / np.array([0.9505, 1, 1.089]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eyes", SEEN)
def test_eight_colours_are_told_apart(eyes: str) -> None:
    assert len(COLOURS) == len(PALE) == 8
    found = [lab(colour, np.array(SEEN[eyes])) for colour in (*COLOURS, INK, "#ffffff")]
    assert min(np.linalg.norm(a - b) for a, b in combinations(found, 2)) > 15
    light = [lab(colour, np.eye(3))[0] for colour in PALE]
    assert min(light) > 70 and max(lab(colour, np.eye(3))[0] for colour in COLOURS) < 72


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.25, "0.25"), (9500, "9500"), (40000, "40k"), (2e6, "2000k")]
)
def test_ticks_are_written_briefly(value: float, text: str) -> None:
    assert label(value) == text
