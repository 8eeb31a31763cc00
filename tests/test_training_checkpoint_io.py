import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stages import make_first_stage, make_loader, make_trainer

from ardiffusion.training.checkpoint_io import WholeCheckpointIO

pytestmark = pytest.mark.filterwarnings("ignore:You defined a|Attribute|Detected")
CHECKPOINT = {"state_dict": {"weight": torch.arange(1000.0)}}


def save(path: Path) -> None:
    WholeCheckpointIO().save_checkpoint(CHECKPOINT, path)


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("name", ["last.ckpt", "step=7.ckpt"])
def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path: Path, name: str) -> None:
    dead, alive = dead_process(), os.getppid()
    leftovers = [f".{left}.{dead}.tmp" for left in ("last.ckpt", "step=7.ckpt", "step=3.ckpt")]
    kept = [f".last.ckpt.{alive}.tmp", ".notes.tmp", "step=3.ckpt"]
    for left in [*leftovers, *kept]:
        (tmp_path / left).write_text("half")
    save(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {name, *kept}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save(tmp_path / "last.ckpt")
    before = (tmp_path / "last.ckpt").read_bytes()
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match=r"Cannot write .*last\.ckpt \(no space left on device\)"):
        save(tmp_path / "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_reason_that_torch_hides_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_as_torch(checkpoint: object, file: object) -> None:
        try:
            raise OSError(errno.EDQUOT, "over")
        except OSError:
            raise RuntimeError("PytorchStreamWriter failed") from None

    monkeypatch.setattr(torch, "save", save_as_torch)
    with pytest.raises(OSError, match=r"\(disk quota exceeded\): free some space"):
        save(tmp_path / "last.ckpt")


def test_run_does_not_go_on_from_a_damaged_checkpoint(tmp_path: Path) -> None:
    trainer = make_trainer(plugins=WholeCheckpointIO())
    trainer.fit(make_first_stage(), make_loader(1))
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    longer = make_trainer(plugins=WholeCheckpointIO(), max_steps=2)
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged .*copy it again, or use another"):
        longer.fit(make_first_stage(), make_loader(2), ckpt_path=path)
