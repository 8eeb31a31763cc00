import math
import random

import pytest

from ardiffusion.training.spike_detector import SpikeDetector


def middle(numbers: list[float]) -> float:
    ordered = sorted(numbers)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def naive_heights(losses: list[float], window: int) -> list[float]:
    heights = []
    for i, loss in enumerate(losses):
        before = [x for x in losses[:i] if math.isfinite(x)][-window:]
        if 4 * len(before) < window or not math.isfinite(loss):
            heights.append(0.0)
            continue
        level = middle(before)
        mad = middle([abs(x - level) for x in before])
        heights.append((loss - level) / max(mad, 1e-3 * level))
    return heights


def noisy_losses(count: int = 300) -> list[float]:
    """Falling losses with spikes, gaps and a stretch without noise."""
    draw = random.Random(0)
    losses = [2 / (1 + i / 50) + 0.05 * draw.gauss(0, 1) for i in range(count)]
    for i in (40, 111, 112, 200):
        losses[i] *= 3
    losses[60:64] = [math.nan, math.inf, -math.inf, math.nan]
    losses[150:190] = [0.5] * 40
    return losses


@pytest.mark.parametrize("window", [4, 5, 37, 1000])
def test_heights_equal_a_naive_loop(window: int) -> None:
    losses = noisy_losses()
    rule = SpikeDetector(window)
    assert [rule.add(loss) for loss in losses] == pytest.approx(naive_heights(losses, window))


def test_spikes_are_found_and_nothing_else() -> None:
    rule = SpikeDetector(window=30)
    losses = noisy_losses()[:150]
    assert [i for i, x in enumerate(losses) if rule.is_spike(rule.add(x))] == [40, 111, 112]


def test_scale_of_the_losses_changes_nothing() -> None:
    small, large = SpikeDetector(window=20), SpikeDetector(window=20)
    for loss in noisy_losses():
        assert large.add(1000 * loss) == pytest.approx(small.add(loss))


def test_restored_rule_goes_on_as_the_other_one() -> None:
    rule, other = SpikeDetector(window=20), SpikeDetector(window=20)
    losses = noisy_losses()
    for loss in losses[:100]:
        rule.add(loss)
    other.restore(list(rule.recent))
    assert [other.add(x) for x in losses[100:]] == [rule.add(x) for x in losses[100:]]


def test_a_shorter_window_goes_on_with_the_losses_it_has_room_for() -> None:
    losses, rule, other = noisy_losses(), SpikeDetector(window=50), SpikeDetector(window=20)
    for loss in losses[:100]:
        rule.add(loss)
    other.restore(rule.recent)
    expected = naive_heights(losses, window=20)[100:]
    assert [other.add(loss) for loss in losses[100:]] == pytest.approx(expected)
    assert len(other.recent) == 20


@pytest.mark.parametrize(("options", "message"), [((3, 1.0), "got 3"), ((9, 0.0), "height 0.0")])
def test_senseless_rules_are_refused(options: tuple[int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpikeDetector(*options)
