from collections import Counter

import pytest

from ardiffusion.data.windows import draw, every_start, span


@pytest.mark.parametrize("length", [4, 5, 7, 8, 9, 20])
@pytest.mark.parametrize("frames", [1, 3, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_start_covers_the_grid_and_ends_at_the_last_frame(
    length: int, frames: int, stride: int
) -> None:
    starts = every_start(length, frames=frames, stride=stride)
    if length < span(frames, stride):
        assert starts == []
        return
    seen = {start + i * stride for start in starts for i in range(frames)}
    assert seen.issuperset(range(0, length, stride))
    assert max(seen) == length - 1
    regular = list(range(0, length - span(frames, stride) + 1, frames * stride))
    assert starts[: len(regular)] == regular
    assert len(starts) <= len(regular) + min(stride, 2)


def test_draw_is_uniform_and_depends_on_all_it_is_given() -> None:
    draws = Counter(draw(4, seed=0, epoch=0, index=i) for i in range(4000))
    assert all(abs(draws[i] - 1000) < 130 for i in range(4))  # 4.7 sigma
    big = 2**60
    base = draw(big, seed=0, epoch=0, index=0)
    assert base == draw(big, seed=0, epoch=0, index=0)
    others = [draw(big, *args) for args in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert base not in others
