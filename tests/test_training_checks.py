import math
from typing import Any

import pytest
import torch
from lightning import Trainer
from stages import make_trainer

from ardiffusion.training import checks
from ardiffusion.training.checks import (
    check_devices,
    check_trainer_options,
    fast_precision,
    say_of_compile,
)


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("gradient_clip_val", -1.0, "at least 0, got -1.0"),
        ("gradient_clip_val", math.nan, "at least 0, got nan"),
        ("accumulate_grad_batches", 0, "at least 1, got 0"),
        ("accumulate_grad_batches", -2, "at least 1, got -2"),
        ("check_val_every_n_epoch", 0, "at least 1, got 0"),
        ("log_every_n_steps", -1, "at least 0, got -1"),
        ("num_sanity_val_steps", -5, "at least -1, got -5"),
        ("min_steps", -3, "at least 0, got -3"),
        ("min_epochs", -3, "at least 0, got -3"),
        ("val_check_interval", 0, "above 0, got 0"),
        ("val_check_interval", 0.0, "above 0, got 0.0"),
    ],
)
def test_options_that_lightning_takes_for_nothing_are_named(
    name: str, value: float, least: str
) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=rf"--trainer\.{name} must be {least}"):
        check_trainer_options(make_trainer(**options))


def test_usual_options_are_taken() -> None:
    check_trainer_options(make_trainer())
    check_trainer_options(make_trainer(check_val_every_n_epoch=None, val_check_interval=5))
    check_trainer_options(make_trainer(num_sanity_val_steps=-1, val_check_interval="00:01:00:00"))


@pytest.mark.parametrize(
    ("cards", "accelerator", "devices", "sentence"),
    [
        (0, "auto", 4, r"for 4 devices, and there is 1: set --trainer\.devices 1, or --trainer\."
         r"accelerator cpu for 4 processes on the CPU\.$"),
        (1, "auto", "4", r"asks for 4 devices, and there is 1: set --trainer\.devices 1\.$"),
        (2, "gpu", 4, r"asks for 4 devices, and there are 2: set --trainer\.devices 2\.$"),
        (2, "cuda", 3, r"asks for 3 devices, and there are 2: set --trainer\.devices 2\.$"),
        (2, "auto", 0, r"--trainer\.devices must be at least 1, got 0"),
        (0, "cpu", "-2", r"--trainer\.devices must be at least 1, got -2"),
    ],
)  # fmt: skip
def test_devices_that_are_not_there_are_counted(
    cards: int, accelerator: str, devices: object, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    with pytest.raises(ValueError, match=sentence):
        check_devices(accelerator, devices)


@pytest.mark.parametrize(
    ("cards", "accelerator", "devices"),
    [
        (0, "auto", 1),
        (0, "auto", "auto"),
        (0, "cpu", 4),
        (4, "auto", 4),
        (4, "gpu", "4"),
        (4, "auto", -1),
        (4, "auto", "-1"),
        (4, "auto", [0, 1]),
        (0, "gpu", 2),  # which Lightning refuses
    ],
)
def test_devices_that_are_there_are_taken(
    cards: int, accelerator: str, devices: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    check_devices(accelerator, devices)


def test_compiling_for_a_cpu_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        say_of_compile(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False))
    assert "makes it slower" in caplog.text


@pytest.mark.parametrize(
    ("precision", "accelerator", "has", "taken"),
    [
        ("bf16-mixed", "cpu", False, "32-true"),
        ("bf16-true", "cpu", False, "32-true"),
        ("bf16-mixed", "cpu", True, "bf16-mixed"),
        ("bf16-mixed", "cuda", False, "bf16-mixed"),
        ("64-true", "cpu", False, "64-true"),
        (None, "auto", False, None),
    ],
)
def test_bfloat16_is_not_computed_in_software(
    precision: str | None,
    accelerator: str,
    has: bool,
    taken: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(checks, "has_bfloat16", lambda: has)
    with caplog.at_level("INFO"):
        assert fast_precision(precision, accelerator) == taken
    assert (f"32-true, not in {precision}" in caplog.text) == (precision != taken)


@pytest.mark.parametrize("gpu", [False, True])
def test_bfloat16_is_for_a_gpu_to_compute_if_there_is_one(
    gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "has_bfloat16", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
    assert fast_precision("bf16-mixed", "auto") == ("bf16-mixed" if gpu else "32-true")
