import json
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from ardiffusion.nn.arvae import ARVAE
from experiments.benchmarks import decode as module
from experiments.benchmarks import memory as memory_module
from experiments.benchmarks.decode import decode
from experiments.benchmarks.measure import peak_memory
from experiments.benchmarks.memory import Sizes, memory, peak_of_process, peak_of_stream

SIZES: dict[str, Any] = {
    "resolution": 16,
    "patch": 8,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "pixel_width": 4,
    "window": 2,
    "frames": 5,
    "repeats": 1,
}


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("temporal", [False, True])
def test_decoding_reports_every_way_and_their_agreement(
    bf16: bool, temporal: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    decode(**SIZES, batch=2, bf16=bf16, temporal=temporal)
    found = last_line(capsys)
    for way in ("frame by frame", "in windows", "all at once"):
        assert found[f"{way}: decoded, frames/s"] > 0
        assert found[f"{way}: peak memory, GB"] > 0
    assert 0 <= found["largest difference from all at once, relative, 1"] < 0.05


def test_ways_that_disagree_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def backwards(arvae: ARVAE, latents: Tensor) -> Tensor:
        return arvae.decode(latents.flip(1))

    monkeypatch.setattr(module, "in_windows", backwards)
    with pytest.raises(ValueError, match=r"differs by \S+ from decoding all at once, more"):
        decode(**SIZES)


def test_temporal_attention_has_a_say_in_what_is_timed() -> None:
    arvae = module.randomize_zero_weights(
        ARVAE(resolution=16, patch=8, width=16, depth=1, heads=2, temporal=True)
    )
    assert all(p.any() for p in arvae.parameters() if p.ndim > 1)


def test_memory_is_compared_between_lengths(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "peak_of_process", peak_of_stream)
    memory(frames=(2, 5), resolution=16, width=8, depth=1, steps=2, batch=2)
    found = last_line(capsys)
    short, long = (found[f"peak memory of {frames} frames, GB"] for frames in (2, 5))
    assert found["5 over 2 frames, x"] == pytest.approx(long / short, rel=1e-3)
    assert found["growth per frame, kB"] == pytest.approx(1e6 * (long - short) / 3, abs=1)


def test_peak_of_a_process_is_its_own() -> None:
    cpu = torch.device("cpu")
    before = peak_memory(cpu)
    held = torch.ones(int(before * 1e9 / 4))  # as much again
    assert peak_memory(cpu) > 1.2 * before
    sizes = Sizes(resolution=16, width=8, depth=1, steps=2, difference=1, batch=1)
    assert 0 < peak_of_process(2, sizes, device="cpu") < 1e-9 * held.nbytes + 0.1


@pytest.mark.parametrize("frames", [(5,), (5, 2), (2, 2), (0, 2)])
def test_lengths_that_cannot_be_compared_are_refused(frames: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"--frames is {list(frames)}: give two")):
        memory(frames=frames)
