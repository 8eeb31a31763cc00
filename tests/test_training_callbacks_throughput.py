from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.loggers import Logger
from stages import Record, make_dit, make_first_stage, make_loader, make_trainer
from torch.optim import SGD
from torch.utils.data import DataLoader

from ardiffusion.nn.flops import flops
from ardiffusion.training.callbacks import throughput
from ardiffusion.training.callbacks.progress import ProgressBar
from ardiffusion.training.callbacks.throughput import Throughput, peak_flops
from ardiffusion.training.diffusion import DiffusionModule

pytestmark = pytest.mark.filterwarnings("ignore:Attribute|You defined a|Detected call|Found .*")


class Log(Logger):
    """Keeps what is logged of the speed, by step."""

    @property
    def name(self) -> str:
        return "log"

    @property
    def version(self) -> int:
        return 0

    def __init__(self) -> None:
        self.speeds: dict[int, dict[str, float]] = {}

    def log_hyperparams(self, *args: object, **kwargs: object) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        speeds = {name: value for name, value in metrics.items() if name.startswith("speed/")}
        if speeds:
            self.speeds[step or 0] = speeds


class Clock:
    """A device on which everything takes a second, and how often it was waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time, self.read = 0.0, 0
        monkeypatch.setattr(throughput, "now", self.now)

    def now(self, device: torch.device) -> float:
        self.read += 1
        return self.time


class Tick(Callback):
    """Lets a second pass in every training batch and ten in every validation batch."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_start(self, *_: object, **__: object) -> None:
        self.clock.time += 1

    def on_validation_batch_start(self, *_: object, **__: object) -> None:
        self.clock.time += 10


def make_module(tokenizer: Path) -> DiffusionModule:
    return DiffusionModule(
        dit=make_dit(classes=4), arvae=str(tokenizer), optimizer=partial(SGD, lr=0.01)
    )


def fit(tokenizer: Path, clock: Clock, data: Any, **options: Any) -> Log:  # noqa: ANN401
    log = Log()
    callbacks = [Tick(clock), Throughput(), *options.pop("callbacks", [])]
    trainer = make_trainer(
        callbacks=callbacks, logger=log, **{"max_steps": 6, "log_every_n_steps": 2, **options}
    )
    trainer.fit(make_module(tokenizer), *data)
    return log


@pytest.mark.parametrize("accumulate", [1, 3])
def test_speed_is_logged_where_the_trainer_logs(
    tokenizer: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    clock = Clock(monkeypatch)
    data = [make_loader(18, batch=4, frames=3)]
    log = fit(tokenizer, clock, data, accumulate_grad_batches=accumulate)
    assert [step + 1 for step in log.speeds] == [2, 4, 6]
    for speeds in log.speeds.values():  # 2 tokens per frame, a batch per second
        assert speeds == {"speed/tokens_per_second": 24, "speed/clips_per_second": 4}


def test_clock_is_read_with_the_log_alone(
    tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    fit(tokenizer, clock, [make_loader(20)], max_steps=20, log_every_n_steps=10)
    assert clock.read == 1 + 2 * 2


def test_validation_takes_no_time(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    data = [make_loader(8), make_loader(3)]
    log = fit(tokenizer, clock, data, max_steps=8, val_check_interval=3, num_sanity_val_steps=1)
    assert clock.time == 8 + 10 * (1 + 2 * 3)
    assert all(speeds["speed/clips_per_second"] == 2 for speeds in log.speeds.values())


def test_utilisation_is_that_of_the_peak(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "device_peak", lambda device, precision: 1e6)
    batch = {"latents": torch.randn(3, 4, 2, 4), "label": torch.zeros(3).long()}
    batches: Any = [batch] * 6
    log = fit(tokenizer, Clock(monkeypatch), [DataLoader(batches, batch_size=None)])
    operations = flops(make_dit(classes=4), 4)
    assert operations is not None
    for speeds in log.speeds.values():
        assert speeds["speed/mfu"] == pytest.approx(3 * 3 * operations / 1e6)


def test_real_time_is_measured(tokenizer: Path) -> None:
    log = Log()
    trainer = make_trainer(max_steps=4, log_every_n_steps=2, callbacks=[Throughput()], logger=log)
    trainer.fit(make_module(tokenizer), make_loader(4))
    assert len(log.speeds) == 2
    assert all(speeds["speed/tokens_per_second"] > 0 for speeds in log.speeds.values())


def test_stage_1_is_told_that_it_is_not_counted() -> None:
    trainer = make_trainer(callbacks=[Throughput()])
    with pytest.raises(ValueError, match="counts tokens of stage 2: leave it out in stage 1"):
        trainer.fit(make_first_stage(), make_loader(1))


def test_bar_shows_the_speed_and_reads_the_loss_where_the_trainer_logs(
    tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar = ProgressBar()
    shown = Record(lambda trainer: bar.get_metrics(trainer, trainer.lightning_module))
    fit(tokenizer, Clock(monkeypatch), [make_loader(6)], callbacks=[shown], log_every_n_steps=3)
    losses = [numbers["loss"] for numbers in shown.seen]
    assert len(set(losses)) == 3 and losses[2] == losses[3] == losses[4] != losses[5]
    assert "tokens/s" in shown.seen[-1]


@pytest.mark.parametrize(("epochs", "shown"), [(-1, "Epoch 3"), (5, "Epoch 3/4")])
def test_bar_counts_epochs_to_an_end_only_where_there_is_one(epochs: int, shown: str) -> None:
    bar = ProgressBar()
    bar.setup(trainer := make_trainer(max_epochs=epochs), make_first_stage(), "fit")
    assert trainer is bar.trainer and bar._get_train_description(3).rstrip() == shown


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA A800-SXM4-80GB", "bf16-mixed", 312e12),
        ("NVIDIA A100-SXM4-40GB", "32-true", 19.5e12),
        ("NVIDIA H200", "bf16-mixed", 989e12),
        ("NVIDIA H100 80GB HBM3", "16-mixed", 989e12),
        ("NVIDIA H100 PCIe", "bf16-true", 756e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16-mixed", None),
        ("NVIDIA A1000", "bf16-mixed", None),
        ("NVIDIA A100-SXM4-40GB", "64-true", None),
    ],
)
def test_peaks_are_those_of_dense_products(name: str, precision: str, peak: float | None) -> None:
    assert peak_flops(name, precision=precision) == peak
