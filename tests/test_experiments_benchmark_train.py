import json
from typing import Any

import pytest
import torch

from experiments.benchmarks import train as benchmark
from experiments.benchmarks.train import train

SIZES: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2, "frames": 2, "batch": 1, "steps": 1}
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_both_ways_are_shown(precision: Any, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN401
    train(**SIZES, precision=precision)
    *table, last = capsys.readouterr().out.strip().splitlines()
    numbers = json.loads(last)
    for way in ("fast", "naive"):
        names = ["trained, tokens/s", "computed, TFLOP/s", "MFU of that product, %"]
        assert all(numbers[f"{way}: {name}"] > 0 for name in [*names, "peak memory, GB"])
        assert any(f"{way}: step in" in line for line in table)
    assert f"fast: step in {precision}, ms" in numbers
    assert not any("data sheet" in name for name in numbers)


def test_numbers_of_a_step_fit_together(capsys: pytest.CaptureFixture[str]) -> None:
    train(**{**SIZES, "batch": 3})
    numbers = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    seconds = numbers["naive: step in 32-true, ms"] / 1e3
    assert numbers["naive: trained, tokens/s"] * seconds == pytest.approx(3 * 2 * 32, rel=1e-3)
    gain = numbers["fast: trained, tokens/s"] / numbers["naive: trained, tokens/s"]
    assert numbers["fast over naive, tokens per second, x"] == pytest.approx(gain, abs=1e-5)


def test_utilisation_of_a_known_device_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "device_peak", lambda device, precision: 1e12)
    train(**{**SIZES, "width": 64})
    numbers = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    share = 100 * numbers["fast: computed, TFLOP/s"]
    assert numbers["fast: MFU of the data sheet, %"] == pytest.approx(share, abs=1e-3)


def test_ways_that_disagree_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "TOLERANCE", {"bf16-mixed": 1e-12})
    with pytest.raises(ValueError, match=r"fast way's losses differ by .* of the naive way's"):
        train(**{**SIZES, "width": 64})


def test_largest_batch_is_the_last_that_does_not_run_out_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def step(task: object, way: object, batch: int) -> Any:  # noqa: ANN401
        if batch > 11:
            raise torch.OutOfMemoryError
        return lambda: None

    monkeypatch.setattr(benchmark, "make_step", step)
    way = benchmark.Way("fast", precision="32-true", fused=True, compile=True)
    task = benchmark.Task(lambda: pytest.fail("not built"), 2, torch.device("cpu"))
    assert benchmark.largest_batch(task, way) == 8


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"batch": 0}, r"--batch is 0: give at least 1; 0, what fits, needs a GPU"),
        ({"batch": -1}, r"--batch is -1"),
        ({"frames": 0}, r"--frames must be at least 1"),
        ({"width": 15}, r"width 15 must be a multiple"),
    ],
)
def test_impossible_sizes_are_named(given: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        train(**{**SIZES, **given})
