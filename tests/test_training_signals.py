import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import Runs
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from stages import Crash, make_data, make_dit, make_first_stage, make_trainer, weights
from torch.optim import AdamW
from torch.testing import assert_close

from ardiffusion.training.callbacks.ema import EMA
from ardiffusion.training.callbacks.save_last import SaveLast
from ardiffusion.training.callbacks.stability import Stability
from ardiffusion.training.diffusion import DiffusionModule
from ardiffusion.training.signals import StopSignals

pytestmark = pytest.mark.filterwarnings(
    "ignore:Attribute|You defined a|Checkpoint directory|Found .*|Detected|Using|.*fork|.*The"
)


class Send(Callback):
    """Send this process a signal in a batch of training or of the second validation."""

    def __init__(
        self, where: str, batch: int, number: int = signal.SIGTERM, rank: int = 0
    ) -> None:
        self.where, self.batch, self.number, self.rank = where, batch, number, rank
        self.validations = 0

    def send(self, where: str, batch: int, trainer: Trainer) -> None:
        if (where, batch, trainer.global_rank) == (self.where, self.batch, self.rank):
            os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer: Trainer, *_: object, **__: object) -> None:
        self.send("train", trainer.fit_loop.total_batch_idx, trainer)

    def on_before_backward(self, trainer: Trainer, *_: object, **__: object) -> None:
        self.send("backward", trainer.fit_loop.total_batch_idx, trainer)

    def on_validation_start(self, trainer: Trainer, *_: object, **__: object) -> None:
        self.validations += 1

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.validations == 2:
            self.send("validation", batch_idx, trainer)


def fit(
    make: Callable[[], LightningModule],
    skies: Path,
    folder: Path,
    *callbacks: Callback,
    last: Path | None = None,
    workers: int = 0,
    **options: Any,  # noqa: ANN401
) -> LightningModule:
    """Train with signals taken, as the commands do."""
    torch.manual_seed(0)
    module = make()
    torch.manual_seed(0)
    keep = ModelCheckpoint(folder, every_n_train_steps=100, save_last=True, save_top_k=0)
    with StopSignals() as signals:
        trainer = make_trainer(
            callbacks=[SaveLast(signals), keep, Stability(window=4), *callbacks],
            enable_checkpointing=True,
            default_root_dir=folder,
            check_val_every_n_epoch=None,
            **{"max_steps": 12, "val_check_interval": 4, **options},
        )
        trainer.fit(module, datamodule=make_data(skies, workers=workers), ckpt_path=last)
    return module


def make_generator(tokenizer: Path) -> DiffusionModule:
    optimizer = partial(AdamW, lr=1e-2)
    return DiffusionModule(dit=make_dit(), arvae=str(tokenizer), optimizer=optimizer)


# Validation comes after batches 4, 8 and 12, an epoch ends after 5 and 10; with 2 batches a step
# the epoch's last is a step by itself.
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("where", "batch", "gathered", "step"),
    [
        ("train", 2, 1, 3),
        ("backward", 4, 1, 5),
        ("backward", 7, 1, 8),
        ("validation", 1, 1, 8),
        ("backward", 2, 2, 2),
        ("backward", 5, 2, 4),
        ("validation", 0, 2, 5),
    ],
)
def test_stopped_run_resumes_as_if_nothing_had_been(
    tokenizer: Path,
    skies: Path,
    tmp_path: Path,
    number: int,
    where: str,
    batch: int,
    gathered: int,
    step: int,
) -> None:
    make = partial(make_generator, tokenizer)
    options: dict[str, Any] = {"accumulate_grad_batches": gathered, "max_steps": 12 // gathered}
    whole = fit(make, skies, tmp_path / "whole", EMA(decay=0.5), **options)
    sent = Send(where, batch, number)
    with pytest.raises(SystemExit) as ended:
        fit(make, skies, tmp_path, EMA(decay=0.5), sent, **options)
    assert ended.value.code == 128 + number
    last = tmp_path / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == step
    resumed = fit(make, skies, tmp_path, EMA(decay=0.5), last=last, **options)
    assert_close(weights(resumed), weights(whole), rtol=0, atol=0)
    logs = [folder / "stability.jsonl" for folder in (tmp_path, tmp_path / "whole")]
    assert logs[0].read_text() == logs[1].read_text()


@pytest.mark.parametrize(("batch", "step"), [(2, 4), (3, 4)])
def test_stopped_run_of_stage_1_waits_for_gathered_gradients(
    skies: Path, tmp_path: Path, batch: int, step: int
) -> None:
    make = partial(make_first_stage, accumulate=2, optimizer=partial(AdamW, lr=1e-2))
    whole = fit(make, skies, tmp_path / "whole")
    with pytest.raises(SystemExit, match="143"):
        fit(make, skies, tmp_path, Send("train", batch))
    last = tmp_path / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == step
    assert_close(weights(fit(make, skies, tmp_path, last=last)), weights(whole), rtol=0, atol=0)


@pytest.mark.parametrize("step", [3, 5, 7])  # an epoch has five batches
def test_a_checkpoint_between_gathered_batches_holds_their_gradients(
    skies: Path, tmp_path: Path, step: int
) -> None:
    make = partial(make_first_stage, accumulate=2, optimizer=partial(AdamW, lr=1e-2))
    whole = fit(make, skies, tmp_path / "whole")
    keep = ModelCheckpoint(tmp_path, "kept", every_n_train_steps=step, save_top_k=-1)
    with pytest.raises(RuntimeError, match="crash"):
        fit(make, skies, tmp_path, keep, Crash(step + 1))
    last = next(tmp_path.glob("kept*.ckpt"))
    assert_close(weights(fit(make, skies, tmp_path, last=last)), weights(whole), rtol=0, atol=0)
    logs = [folder / "stability.jsonl" for folder in (tmp_path, tmp_path / "whole")]
    assert logs[0].read_text() == logs[1].read_text()


def test_signal_stops_a_run_that_must_not_stop_early(skies: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="143"):
        fit(make_first_stage, skies, tmp_path, Send("train", 2), min_steps=9, min_epochs=2)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3


def test_handlers_are_those_of_before(skies: Path, tmp_path: Path) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD)
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(SystemExit):
        fit(make_first_stage, skies, tmp_path, Send("train", 2))
    assert [signal.getsignal(number) for number in numbers] == before


def test_second_signal_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [10.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with pytest.raises(SystemExit, match="130"), StopSignals() as signals:
        signals.busy = True
        os.kill(os.getpid(), signal.SIGTERM)
        clock[0] += 0.5  # the same one, sent to the group, too
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        clock[0] += 2
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on")


def test_without_a_command_signals_stay_who_has_them(skies: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    trainer = make_trainer(max_steps=1, callbacks=[SaveLast()])
    trainer.fit(make_first_stage(), datamodule=make_data(skies))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), EOFError("end")])
def test_broken_connections_are_those_of_readers(error: Exception) -> None:
    with pytest.raises(ChildProcessError, match="reads data ended"), StopSignals() as signals:
        signals.explain(make_trainer(), error)
        raise error


def test_a_hub_that_is_out_of_reach_is_no_reader_that_ended() -> None:
    error = ConnectionError("https://huggingface.co cannot be reached.")
    with pytest.raises(ConnectionError, match="cannot be reached"), StopSignals() as signals:
        signals.explain(make_trainer(), error)
        raise error


class Late(Exception):
    """An error that has nothing to do with a signal."""


def test_an_error_after_a_signal_is_not_hidden() -> None:
    with pytest.raises(Late), StopSignals() as signals:
        signals.busy = True
        os.kill(os.getpid(), signal.SIGTERM)
        raise Late


def fit_together(skies: Path, folder: Path, callback: str) -> "subprocess.CompletedProcess[str]":
    """Train with two processes, the second started by the first as the commands do."""
    job = folder / "job.py"
    job.write_text(f"""
from test_training_signals import *
root, folder = Path({str(skies)!r}), Path({str(folder)!r})
fit(make_first_stage, root, folder, {callback}, devices=2, strategy="ddp", max_steps=30)
""")
    # Lightning leaves the port of a job in the environment, where it may still be taken
    given = {name: value for name, value in os.environ.items() if name != "MASTER_PORT"}
    given["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.run(
        [sys.executable, job], cwd=folder, env=given, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_processes_stop_together(skies: Path, tmp_path: Path) -> None:
    """Which one is told does not matter."""
    done = fit_together(skies, tmp_path, callback="Send('backward', 3, rank=1)")
    assert done.returncode == 143, done.stderr
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4


class Die(Callback):
    """Kill the process of a rank."""

    def on_train_batch_start(self, trainer: Trainer, *_: object, **__: object) -> None:
        if trainer.global_rank == 1 and trainer.fit_loop.total_batch_idx == 2:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_dead_process_is_named(skies: Path, tmp_path: Path) -> None:
    done = fit_together(skies, tmp_path, callback="Die()")
    said = "ChildProcessError: Process 1 of 2 was ended by SIGKILL, so all of them stopped"
    assert done.returncode == 1 and said in done.stderr, done.stderr


class DieReading(Callback):
    """Kill a process that reads data."""

    def on_train_batch_start(self, trainer: Trainer, *_: object, **__: object) -> None:
        if trainer.fit_loop.total_batch_idx == 2:
            newest = children_of(os.getpid())[-1]  # other tests may have left some behind
            os.kill(newest, signal.SIGKILL)


def test_dead_reader_is_named(skies: Path, tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError, match=r"reads data ended \(.*if memory is short, lower"):
        fit(make_first_stage, skies, tmp_path, DieReading(), workers=1)


def children_of(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


def start(folder: Path, root: Path, stage: str, verb: str, *more: str) -> subprocess.Popen[str]:
    """Start a command, and wait until it is at work."""
    script = Path(__file__).with_name("interrupted.py")
    command = [sys.executable, str(script), str(folder), str(root), stage, verb, *more]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(done: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not done():
        if time.monotonic() > deadline or process.poll() is not None:
            process.kill()
            pytest.fail(process.communicate()[0])
        time.sleep(0.05)


def interrupt(
    process: subprocess.Popen[str], done: Callable[[], bool], number: int, group: bool
) -> str:
    """Send a signal once a command is at work; return what it said when it has ended."""
    wait_for(done, process)
    family = {process.pid, *children_of(process.pid)}
    (os.killpg if group else os.kill)(process.pid, number)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + number, said
    assert "cli.py" not in said, said  # a traceback, but for those of readers that are cut short
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]
    return said


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


TRAINING = ("--trainer.max_steps=100000", "--trainer.log_every_n_steps=1", "--data.workers=1")


@pytest.mark.parametrize(
    ("number", "group", "more"),
    [
        (signal.SIGTERM, False, ()),
        (signal.SIGINT, True, ()),
        pytest.param(signal.SIGTERM, True, (), marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, False, ("--trainer.devices=2",), marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, True, ("--trainer.devices=2",), marks=pytest.mark.slow),
    ],
)
def test_command_that_trains_leaves_its_last_step_and_no_process(
    skies: Path, tmp_path: Path, number: int, group: bool, more: tuple[str, ...]
) -> None:
    log, last = tmp_path / "vae/stability.jsonl", tmp_path / "vae/checkpoints/last.ckpt"
    process = start(tmp_path, skies, "vae", "fit", *TRAINING, *more)
    said = interrupt(process, lambda: lines(log) > 3, number=number, group=group)
    step = torch.load(last, weights_only=True)["global_step"]
    assert f"after step {step}; go on with --ckpt_path {last}." in said
    assert lines(log) == step >= 3
    runs = Runs(tmp_path, root=skies)
    runs.run("vae", "fit", ckpt_path=last, trainer__max_steps=step + 2)
    assert torch.load(last, weights_only=True)["global_step"] == step + 2


SLURM = {"JOB_ID": 9, "ARRAY_JOB_ID": 7, "ARRAY_TASK_ID": 2, "JOB_NAME": "train", "NTASKS": 1}
SLURM |= {"NTASKS_PER_NODE": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0}


def test_job_of_slurm_goes_back_into_the_queue_and_on_from_its_last_step(
    skies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol = tmp_path / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    for name, value in SLURM.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    log, last = tmp_path / "vae/stability.jsonl", tmp_path / "vae/checkpoints/last.ckpt"
    process = start(tmp_path, skies, "vae", "fit", *TRAINING, "--ckpt_path=last")
    interrupt(process, lambda: lines(log) > 3, number=signal.SIGUSR1, group=True)
    assert (tmp_path / "told").read_text() == "requeue 7_2\n"
    step = torch.load(last, weights_only=True)["global_step"]
    runs = Runs(tmp_path, root=skies)
    runs.run("vae", "fit", ckpt_path="last", trainer__max_steps=step + 2)
    assert torch.load(last, weights_only=True)["global_step"] == step + 2 == lines(log)


@pytest.mark.parametrize("group", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_command_that_generates_leaves_whole_videos(
    runs: Runs, skies: Path, tmp_path: Path, group: bool
) -> None:
    output = tmp_path / "samples"
    more = [f"--output={output}", f"--ckpt_path={runs.dit}", "--samples=3000", "--batch_size=1"]
    process = start(tmp_path, skies, "dit", "predict", *more)
    done = partial(lambda: lines(output / "samples.jsonl") > 1)
    interrupt(process, done, number=signal.SIGTERM, group=group)
    count = lines(output / "samples.jsonl")
    assert {path.name for path in output.glob(".*.tmp")} == set()
    assert len(list(output.glob("*.mp4"))) in (count, count + 1)
    runs.run("dit", "predict", output=output, samples=count + 1, batch_size=1)
    assert lines(output / "samples.jsonl") == count + 1


@pytest.mark.slow
def test_command_that_loses_a_process_names_it(skies: Path, tmp_path: Path) -> None:
    log = tmp_path / "vae/stability.jsonl"
    process = start(tmp_path, skies, "vae", "fit", *TRAINING, "--trainer.devices=2")
    wait_for(lambda: lines(log) > 3, process)
    ranks = [p for p in children_of(process.pid) if b"LOCAL_RANK=1" in environment(p)]
    os.kill(ranks[0], signal.SIGKILL)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    assert [line[:42] for line in said.splitlines() if "error" in line.lower()] == [
        "error: Process 1 of 2 was ended by SIGKILL"
    ]
    assert "Traceback" not in said


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()
