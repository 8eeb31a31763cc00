"""How a command ends that a signal tells to, or that loses one of its processes.

Training finishes its step and writes `last.ckpt`; all else ends at once, and what it has written
by then is whole. The exit code is 128 and the signal's number. A second signal, more than a second
later, does not wait for the step. SIGUSR1 is how SLURM says that a job's time is up: the job then
goes back into the queue.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from subprocess import Popen, TimeoutExpired
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException

LOST = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe|tcpstore", re.IGNORECASE)
HANGING = 20.0  # seconds after which a process that lost another one does not notice any more
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
NOTE = b"\nStopping after this step and its checkpoint; another signal stops at once.\n"


class StopSignals:
    """Takes the signals of a command while it runs, as a context.

    Attributes:
        received: The signal that came; 0 if none did.
        busy: Whether the run is to finish its step when one comes.
    """

    def __init__(self) -> None:
        self.received, self.when, self.busy = 0, 0.0, False
        self.pid, self.parent, self.rank = 0, 0, 0
        self.handlers: dict[int, Any] = {}  # those before
        self.processes: Sequence[Any] = ()  # that this one launched
        self.lost: str | None = None  # what to say of a process that ended before this one

    def __enter__(self) -> "StopSignals":
        self.listen()
        return self

    def listen(self) -> None:
        """Take the signals of this process."""
        if self.pid != os.getpid() and threading.current_thread() is threading.main_thread():
            self.pid, self.parent = os.getpid(), os.getppid()
            for number in STOPPING:
                self.handlers[number] = signal.signal(number, self.receive)
            os.register_at_fork(after_in_child=self.leave_to_parent)

    def leave_to_parent(self) -> None:
        """Let a process that is forked, as readers of data are, end when its parent ends it."""
        if self.pid == os.getppid():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for number in (signal.SIGINT, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)

    def receive(self, number: int, frame: object) -> None:
        """Note a signal, or end at once; a process and its group may get the same one."""
        now, first = time.monotonic(), not self.received
        if not first and now - self.when < 1:
            return
        self.received, self.when = number, now
        if first:  # or the end of a reader that got the signal, too, breaks into what follows
            self.handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, leave_to_us)
        if not (first and self.busy):
            raise SystemExit(128 + number)
        if self.rank == 0:
            os.write(2, NOTE)

    def watch(self, trainer: Trainer) -> None:
        """Look after a process of a run, instead of Lightning, which breaks steps off."""
        if not self.pid:  # no command takes signals, so they are not ours
            return
        self.listen()
        self.rank = trainer.global_rank
        self.processes = getattr(trainer.strategy.launcher, "procs", ())
        trainer._signal_connector._sigterm_notifier_fn = leave_to_us  # pyright: ignore[reportAttributeAccessIssue]
        for thread in threading.enumerate():
            if isinstance(thread, _ChildProcessObserver):
                thread._run = self.observe

    def observe(self) -> bool:
        """End this process if one that it launched failed unnoticed; say if all have ended."""
        codes = [process.poll() for process in self.processes]
        if any(codes):
            time.sleep(HANGING)
            if self.lost is None:
                print(f"error: {self.lost_process(len(codes) + 1)}", file=sys.stderr, flush=True)
            end_processes(self.processes, seconds=0)
            os._exit(2)
        return None not in codes

    def asked(self, trainer: Trainer) -> bool:
        """Say whether any process of the run was told to end; all of them must ask."""
        if trainer.world_size > 1:
            number = torch.tensor(float(self.received), device=trainer.strategy.root_device)
            number = trainer.strategy.reduce(number, reduce_op="max")
            assert isinstance(number, Tensor)
            self.received = int(number)
        return self.received > 0

    def explain(self, trainer: Trainer, error: BaseException) -> None:
        """End the processes that this one launched; note which of them ended first, if one did."""
        self.processes = getattr(trainer.strategy.launcher, "procs", ())
        several = trainer.world_size > 1 or len(self.processes) > 0
        if isinstance(error, ProcessExitedException) or (several and LOST.search(str(error))):
            environment = getattr(trainer.strategy, "cluster_environment", None)
            launched = isinstance(environment, LightningEnvironment) and self.rank > 0
            self.lost = self.lost_process(trainer.world_size, launched=launched)
        elif reader_ended(error):
            self.lost = (
                f"A process that reads data ended ({str(error).strip(' .')}): if memory is short, "
                "lower --data.workers; go on with --ckpt_path and the last checkpoint."
            )
        for process in self.processes:
            process.terminate()
        # those that train with this one cannot finish their step without it
        end_processes(self.processes, seconds=3 if self.takes_part() else 60)

    def takes_part(self) -> bool:
        """Say whether this process is one of those that train, beside those that it launched."""
        return len(self.processes) > 0 and isinstance(self.processes[0], Popen)

    def lost_process(self, count: int, launched: bool = False) -> str | None:
        """Say which of `count` processes ended first; None if none did, nothing if others say so.

        Process 0 may have `launched` this one.
        """
        who, how = "Another process of this run", "ended"
        if ended := first_ended(self.processes):
            number, code = ended[0] + self.rank + self.takes_part(), ended[1]
            who = f"Process {number} of {max(count, len(self.processes))}"
            name = signal.Signals(-code).name if code < 0 else f"an error (exit code {code})"
            how = f"was ended by {name}"
        elif self.processes:
            return None
        elif launched:
            if os.getppid() == self.parent:
                return ""
            who = f"Process 0 of {count}"
        return (
            f"{who} {how}, so all of them stopped (the first is number 0): go on with --ckpt_path "
            "and the last checkpoint."
        )

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.pid = 0  # or what is forked from here on would not end by SIGINT
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        told = isinstance(error, SystemExit) or reader_ended(error)
        if self.received and (told or (error is None and self.rank == 0)):
            end_processes(self.processes, seconds=30)
            if self.received == signal.SIGUSR1:
                requeue()
            raise SystemExit(128 + self.received) from None
        if self.lost is not None:
            raise ChildProcessError(self.lost) if self.lost else SystemExit(1)


def requeue() -> None:
    """Put the job of SLURM that this is the first process of back into the queue."""
    job, first = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_PROCID", "0") == "0"
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if job and first and shutil.which("scontrol"):
        subprocess.run(["scontrol", "requeue", job], check=False)  # says itself why it cannot


def leave_to_us(*_: object) -> None:
    """Do nothing about a signal."""


def reader_ended(error: BaseException | None) -> bool:
    """Say whether an error is that of a process that reads data and is no more."""
    broken = isinstance(error, ConnectionError | EOFError)
    plain = type(error) is ConnectionError  # the Hub's: those of the system are its subclasses
    return "DataLoader worker" in str(error) or (broken and not plain)


def end_processes(processes: Sequence[Any], seconds: float) -> None:
    """Wait for processes, and kill those that take longer."""
    deadline = time.monotonic() + seconds
    for process in processes:
        left = max(deadline - time.monotonic(), 0.0)
        with suppress(TimeoutExpired):
            process.wait(left) if isinstance(process, Popen) else process.join(left)
        process.kill()


def first_ended(processes: Sequence[Any]) -> tuple[int, int] | None:
    """Return the number and the exit code of the process that ended first; waits a second for one.

    Signals come before the errors that they bring about elsewhere.
    """
    deadline = time.monotonic() + 1
    while processes and time.monotonic() < deadline:
        codes = [p.poll() if isinstance(p, Popen) else p.exitcode for p in processes]
        ended = [code for code in codes if code is not None]
        if ended:
            return codes.index(min(ended)), min(ended)
        time.sleep(0.02)
    return None
