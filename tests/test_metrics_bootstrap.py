from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from ardiffusion.metrics.bootstrap import (
    Bootstrap,
    distance_interval,
    draw_videos,
    mean_interval,
)
from ardiffusion.metrics.frechet import feature_distance
from ardiffusion.metrics.parallel import in_threads

N, D = 60, 4


def sides(seed: int) -> tuple[Tensor, Tensor]:
    """Features of two sets of videos: standard normal, and shifted and wider."""
    generator = torch.Generator().manual_seed(seed)
    real, fake = torch.randn(2, N, D, generator=generator, dtype=torch.float64)
    return real, 1.5 * fake + 1


def interval(
    real: Tensor, fake: Tensor, videos: tuple[Sequence[int], Sequence[int]], bootstrap: Bootstrap
) -> tuple[float, float] | None:
    def distance(counts: Sequence[Tensor | None] = (None, None)) -> float:
        return feature_distance(real, fake, counts=counts)

    distances = partial(in_threads, distance)
    return distance_interval(distances, distance(), videos, bootstrap, lowest=0.0)


def between(seed: int, draws: int = 100) -> tuple[float, float]:
    return ends_of(interval(*sides(seed), (range(N), range(N)), Bootstrap(draws, seed)))


def ends_of(found: tuple[float, float] | None) -> tuple[float, float]:
    assert found is not None
    return found


@pytest.fixture(scope="module")
def repetitions() -> np.ndarray:
    return np.array([feature_distance(*sides(seed)) for seed in range(300)])


@pytest.fixture(scope="module")
def intervals() -> list[tuple[float, float]]:
    return [between(seed) for seed in range(1000, 1060)]


def test_interval_holds_the_expectation_at_so_many_videos(
    repetitions: np.ndarray, intervals: list[tuple[float, float]]
) -> None:
    middle = repetitions.mean()
    assert np.mean([low < middle < high for low, high in intervals]) > 0.88
    truth = D * (1 + 0.25)  # |m|² and (1.5 - 1)² in each of four directions
    assert middle > truth  # few videos bias it upwards, which the interval leaves alone


def test_scatter_is_that_of_repetitions(
    repetitions: np.ndarray, intervals: list[tuple[float, float]]
) -> None:
    low, high = np.quantile(repetitions, [0.025, 0.975])
    widths = [high - low for low, high in intervals]
    assert np.mean(widths) == pytest.approx(high - low, rel=0.2)


def test_interval_holds_a_value_that_lies_below_all_draws() -> None:
    # With hardly more clips than features every draw loses rank, and lies above the value.
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 24, 20, generator=generator, dtype=torch.float64)
    value, draws = feature_distance(real, fake), torch.Generator().manual_seed(0)
    clips = torch.arange(24)
    drawn = [
        feature_distance(real, fake, counts=[draw_videos(clips, draws) for _ in range(2)])
        for _ in range(50)
    ]
    assert min(drawn) > value
    low, high = ends_of(
        interval(real, fake, videos=(range(24), range(24)), bootstrap=Bootstrap(50))
    )
    assert low < value < high
    # shifted to the value, and of the draws' own width
    expected = np.quantile(drawn, [0.025, 0.975]) + value - np.mean(drawn)
    assert [low, high] == pytest.approx(expected.tolist(), rel=1e-9)


def test_clips_of_one_video_are_drawn_together() -> None:
    clips = torch.tensor([1, 1, 1, 2, 2, 0])
    counts = draw_videos(clips, torch.Generator().manual_seed(0))
    assert counts.sum() > 0 and len(counts) == 6
    assert counts[:3].unique().numel() == counts[3:5].unique().numel() == 1
    # three videos are drawn, each with all its clips
    assert counts[0] + counts[3] + counts[5] == 3


def test_copies_of_clips_do_not_narrow_the_interval() -> None:
    real, fake = sides(0)
    numbers = torch.arange(N).repeat_interleave(3).tolist()
    tripled = [x.repeat_interleave(3, dim=0) for x in (real, fake)]
    found = interval(*tripled, videos=(numbers, numbers), bootstrap=Bootstrap(50))
    expected = interval(real, fake, videos=(range(N), range(N)), bootstrap=Bootstrap(50))
    assert found == pytest.approx(expected, rel=1e-9)


def test_interval_is_never_negative_and_follows_its_seed() -> None:
    real, _ = sides(0)
    low, high = ends_of(
        interval(real, real + 0.01, videos=(range(N), range(N)), bootstrap=Bootstrap(40))
    )
    assert low == 0 < high
    assert between(0, draws=20) == between(0, draws=20)


def test_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = ends_of(mean_interval(values, bootstrap=Bootstrap(4000)))
    half = 1.96 * values.std().item() / 500**0.5
    mean = values.mean().item()
    assert [low, high] == pytest.approx([mean - half, mean + half], abs=0.1 * half)


def test_pairs_are_drawn_together() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(N, D, generator=generator, dtype=torch.float64)
    videos = [i // 2 for i in range(N)]  # two clips of each
    both, seed = (videos, videos), 3
    found = interval(real, real + 0.1, videos=both, bootstrap=Bootstrap(50, seed, paired=True))
    low, high = ends_of(found)
    # Whatever is drawn, the two sides differ by the shift alone.
    assert low == pytest.approx(D * 0.01, rel=1e-6) and high == pytest.approx(D * 0.01, rel=1e-6)
    apart = ends_of(interval(real, real + 0.1, videos=both, bootstrap=Bootstrap(50, seed)))
    assert apart[1] > 2 * high


def test_one_video_gives_no_interval() -> None:
    real, fake = sides(0)
    for videos in (([7] * N, range(N)), (range(N), [7] * N)):
        assert interval(real, fake, videos=videos, bootstrap=Bootstrap(5)) is None
        assert interval(real, fake, videos=videos, bootstrap=Bootstrap(5, paired=True)) is None
    assert mean_interval(torch.tensor([3.0]), Bootstrap()) is None


def test_pairs_without_clips_on_one_side_give_an_interval() -> None:
    real, fake = (side[:3] for side in sides(0))
    videos, apart = ([0, 1, 2], [0, 1]), Bootstrap(50)
    found = interval(real, fake[:2], videos=videos, bootstrap=Bootstrap(50, paired=True))
    assert found == interval(real, fake[:2], videos=videos, bootstrap=apart)
    assert all(np.isfinite(ends_of(found)))
