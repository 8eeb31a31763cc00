import pytest
from PIL import ImageColor

from ardiffusion.tools.plot import COLOURS, Panel, line_plot, y_ticks


@pytest.mark.parametrize("highest", [0.0, 0.013, 0.5, 1.0, 3.0, 7.31, 10.0, 99.0, 101.0])
def test_ticks_are_few_and_reach_the_highest_value(highest: float) -> None:
    ticks = y_ticks(highest)
    assert 3 <= len(ticks) <= 6 and ticks[0] == 0
    assert ticks[-1] >= highest * (1 - 1e-6)
    assert highest == 0 or ticks[-2] < highest


def test_higher_curve_lies_above_the_lower_one() -> None:
    curves = {"low": [(8.0, 1.0), (50.0, 1.0)], "high": [(8.0, 4.0), (50.0, 4.0)]}
    picture = line_plot([Panel("title", "x", curves)] * 2)
    half, height = picture.width // 2, picture.height
    rows = []
    for colour in COLOURS[:2]:
        pixels = [picture.getpixel((half // 2, y)) for y in range(60, height)]
        rows.append(pixels.index(ImageColor.getrgb(colour)))
    assert rows[0] > rows[1]
    left = picture.crop((0, 0, half, height))
    assert left.tobytes() == picture.crop((half, 0, 2 * half, height)).tobytes()
