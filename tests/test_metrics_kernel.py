import itertools

import pytest
import torch
from torch import Tensor

from ardiffusion.metrics.kernel import ROWS, kernel, kernel_distance, kernel_distances


def draw(count: int, shift: float = 0.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=generator, dtype=torch.float64) + shift


def naive(real: Tensor, fake: Tensor) -> float:
    def k(x: Tensor, y: Tensor) -> float:
        return float((sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3)

    def within(z: Tensor) -> float:
        pairs = list(itertools.permutations(range(len(z)), 2))
        return sum(k(z[i], z[j]) for i, j in pairs) / len(pairs)

    across = sum(k(x, y) for x in real for y in fake) / (len(real) * len(fake))
    return within(real) + within(fake) - 2 * across


@pytest.mark.parametrize("rows", [1, 4, 7, 256])
def test_the_distance_is_that_of_a_plain_double_loop(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ardiffusion.metrics.kernel.ROWS", rows)
    real, fake = draw(7), draw(9, shift=0.5, seed=1)
    assert kernel_distance(real, fake) == pytest.approx(naive(real, fake), rel=1e-12)


def test_counts_of_each_draw_are_repetitions() -> None:
    real, fake, once = draw(4), draw(5, seed=1), torch.ones(5)
    drawn = [torch.tensor(counts) for counts in ([2, 0, 1, 3], [1, 1, 0, 0])]
    found = kernel_distances(real, fake, [(counts, once) for counts in drawn])
    expected = [naive(real.repeat_interleave(counts, dim=0), fake) for counts in drawn]
    assert found == pytest.approx(expected, rel=1e-9)


def test_no_more_than_some_rows_of_kernels_are_there_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows: list[int] = []

    def watched(products: Tensor, width: int) -> Tensor:
        rows.append(len(products) if products.ndim == 2 else 0)
        return kernel(products, width)

    monkeypatch.setattr("ardiffusion.metrics.kernel.kernel", watched)
    kernel_distance(draw(3 * ROWS + 1), draw(20, seed=1))
    assert max(rows) == ROWS and sum(rows) == 2 * (3 * ROWS + 1) + 20


def test_few_clips_bring_no_bias() -> None:
    found = [kernel_distance(draw(8, seed=i), draw(8, seed=1000 + i)) for i in range(600)]
    mean, error = torch.tensor(found).mean(), torch.tensor(found).std() / 600**0.5
    assert abs(mean) < 4 * error


def test_farther_sets_are_farther() -> None:
    near, far = (kernel_distance(draw(64), draw(64, shift=s, seed=1)) for s in (0.2, 1.0))
    assert 0 < near < far
