"""Commands killed at any moment: what goes on afterwards ends as if nothing had been.

ARDIFFUSION_KILLS=30 pytest -m slow tests/test_kill.py
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import Runs

from ardiffusion import files

KILLS = int(os.environ.get("ARDIFFUSION_KILLS", "8"))
EMA = "ardiffusion.training.callbacks.ema.EMA"
CALLBACKS = {
    "ardiffusion.training.callbacks.stability.Stability": {},
    "lightning.pytorch.callbacks.ModelCheckpoint": {
        "filename": "{step}",
        "every_n_train_steps": 3,
        "save_last": True,
        "enable_version_counter": False,
    },
}


def begin(work: Callable[[], None], said: Path) -> int:
    """Start work in a process of its own, with its own group; return its number."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        sys.stdout = sys.stderr = open(said, "a", buffering=1)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def finish(work: Callable[[], None], said: Path) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(begin(work, said), 0)[1])
    assert code == 0, said.read_text(errors="replace")[-3000:]


def kill_after(work: Callable[[], None], said: Path, seconds: float) -> None:
    pid = begin(work, said)
    time.sleep(seconds)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def settings_of(number: int) -> tuple[str, dict[str, Any]]:
    """Choose what the run of a number is like, so that eight in a row differ in all there is."""
    stage = ("vae", "dit")[number % 2]
    callbacks = [{"class_path": name, "init_args": given} for name, given in CALLBACKS.items()]
    averaged = {"network": {"vae": "arvae", "dit": "dit"}[stage], "decay": 0.5}
    callbacks.append({"class_path": EMA, "init_args": averaged})
    settings: dict[str, Any] = {
        "trainer__callbacks": json.dumps(callbacks),
        "trainer__log_every_n_steps": 2,
        "data__workers": 2 * (number // 2 % 2),
        "data__clips_per_video": 2,
        "ckpt_path": "last",
    }
    gathered = 1 + number // 4 % 2
    if stage == "vae":
        gan: dict[str, Any] = {"adversarial": 0.5, "adversarial_start": 4, "accumulate": gathered}
        gan |= {"discriminator": "Discriminator", "discriminator__layers": 1}
        settings |= {f"model__{name}": value for name, value in gan.items()}
    else:
        settings["trainer__accumulate_grad_batches"] = gathered
    by_epochs = (number // 8 + number // 2) % 2
    limits = {"max_steps": -1, "max_epochs": 3} if by_epochs else {"max_steps": 14}
    return stage, settings | {f"trainer__{name}": value for name, value in limits.items()}


def leaves(value: object, place: str = "") -> Iterator[tuple[str, object]]:
    """List all that a checkpoint holds, with what it is called."""
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in pairs:
            yield from leaves(inner, f"{place}/{name}")
    else:
        yield place, value.tolist() if isinstance(value, torch.Tensor) else value


def state(folder: Path, stage: str) -> dict[str, object]:
    """Read what a run ended with: its checkpoint and the log of its losses.

    Left out are paths and Lightning's own counts of epochs and validations, which go on when a
    run that had ended is begun again.
    """
    checkpoint = torch.load(folder / stage / "checkpoints/last.ckpt", weights_only=True)
    for name in ("callbacks", "loops", "epoch"):
        del checkpoint[name]
    log = (folder / stage / "stability.jsonl").read_text()
    return {**dict(leaves(checkpoint)), "log": log}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(KILLS))
def test_killed_training_ends_as_if_nothing_had_been(
    number: int, runs: Runs, skies: Path, tmp_path: Path
) -> None:
    stage, settings = settings_of(number)

    def train(folder: Path) -> None:
        own = Runs(folder, root=skies)
        own.vae, own.latents = runs.vae, runs.latents
        own.run(stage, "fit", **settings)

    start = time.monotonic()
    finish(partial(train, tmp_path / "whole"), tmp_path / "whole.txt")
    took, said = time.monotonic() - start, tmp_path / "said.txt"
    for moment in random.Random(number).choices(range(100), k=2):
        kill_after(partial(train, tmp_path / "killed"), said, seconds=moment / 100 * took)
    finish(partial(train, tmp_path / "killed"), said)
    whole, killed = state(tmp_path / "whole", stage), state(tmp_path / "killed", stage)
    assert {n: v for n, v in killed.items() if v != whole.get(n)} == {}
    assert whole.keys() == killed.keys()
    assert not list((tmp_path / "killed").rglob("*.tmp"))


def test_a_kill_within_a_shard_costs_nothing_but_time(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(tensors: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    output, said = tmp_path / "latents", tmp_path / "said.txt"
    encode = partial(runs.run, "vae", "predict", output=output)
    with monkeypatch.context() as patch:
        patch.setattr(files, "save_file", half)
        os.waitpid(begin(encode, said), 0)
    assert list(output.glob(".*.tmp")) and not list(output.glob("*.safetensors"))
    finish(encode, said)
    finish(encode, said)  # nothing is left to do
    assert not list(output.glob(".*.tmp"))
    assert (output / "index.json").read_text() == (runs.latents / "index.json").read_text()
