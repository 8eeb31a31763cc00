"""The benchmarks run and say what they should; how fast they are is for them alone to measure."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ardiffusion.data import index as data_index
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.schedule import NoiseSchedule
from experiments.benchmark import main
from experiments.benchmarks.index import fill_index, open_data, open_latents, write_latents
from experiments.benchmarks.sample import FrameCounter

SMALL = ["--width", "16", "--depth", "1", "--heads", "2", "--steps", "6"]


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[str, dict[str, Any]]:
    main(list(args))
    out = capsys.readouterr().out
    return out, json.loads(out.splitlines()[-1])


def test_sampling_is_compared_with_the_window(capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--frames", "20", "--differences", "[3]", "--part", "4"]
    out, numbers = run(capsys, "sample", *SMALL, *more)
    assert numbers["F=20 s=3: frame evaluations at least"] == 120
    assert numbers["F=20 s=3: frame evaluations"] == 120 + 19
    assert 0 < numbers["bfloat16 against float32, latents, rms deviation, of the rms"] < 0.1
    assert numbers["F=20 s=3: window, float32, s"] > 0 and "GB" in out


@pytest.mark.parametrize("difference", [1, 5, 10])
def test_frames_are_computed_once_a_step_and_once_more(difference: int) -> None:
    counter = FrameCounter()
    sampler = Sampler(NoiseSchedule(), steps=10, difference=difference)
    sampler.sample(counter, torch.zeros(1, 40, 2, 3))
    assert counter.frames == 40 * 10 + 39


def test_table_2_has_our_row_beside_the_printed_ones(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--arvae_width", "16", "--arvae_depth", "1", "--resolution", "16"]
    more = ["--frames", "[4]", "--difference", "2", "--precision", "float32"]
    out, numbers = run(capsys, "table2", *SMALL, *tiny, *more)
    assert numbers["F=4, iterations"] == 6 + 2 * 3 and numbers["F=4, s"] > 0
    assert "FIFO" in out and "as printed, A800" in out and "measured" in out


def test_data_set_is_opened_from_its_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_index, "_RECENT", 0)  # as if time had passed
    paths = [f"{i}.mp4" for i in range(30)]
    for path in paths:
        (tmp_path / path).touch()
    written = fill_index(tmp_path, paths, cache=tmp_path / "cache")
    write_latents(tmp_path / "latents", paths)
    opened = [*open_data(tmp_path, tmp_path / "cache"), *open_latents(tmp_path / "latents")]
    values = {what: value for what, value, _ in [*written, *opened]}
    assert values["first batch of clips, 14 before it"] > 0 and values["size of the index"] > 0
    assert values["first batch of latents, 0 before it, on the processor"] > 0
