import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

KEEP = (
    "--trainer.callbacks+={class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: "
    "{every_n_train_steps: 5, save_last: true, save_top_k: 0, enable_version_counter: false}}"
)
OPTIONS = ("--trainer.devices=2", "--trainer.num_nodes=2", "--trainer.max_steps=100000")


def node(folder: Path, root: Path, port: int) -> subprocess.Popen[bytes]:
    """Start a node of two processes, as docs/scale.md does."""
    script = Path(__file__).with_name("interrupted.py")
    launch = ["--nnodes=2", "--nproc-per-node=2", "--max-restarts=3", "--rdzv-backend=c10d"]
    place = [f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1"]
    launcher = [sys.executable, "-m", "torch.distributed.run", *launch, *place, "--no-python"]
    more = ["--trainer.log_every_n_steps=1", "--ckpt_path=last", *OPTIONS, KEEP]
    with (folder / "said").open("ab") as said:
        fit = [sys.executable, str(script), str(folder), str(root), "vae", "fit", *more]
        return subprocess.Popen([*launcher, *fit], stdout=said, stderr=said)


def family(pid: int) -> list[int]:
    """List a process and all that come from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def wait_for(done: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + 240
    while not done():
        assert time.monotonic() < deadline, (folder / "said").read_text()
        time.sleep(0.2)


@pytest.mark.slow
def test_job_of_two_nodes_goes_on_when_one_was_lost_and_comes_back(
    skies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = tmp_path / "vae/checkpoints/last.ckpt"

    def steps() -> int:
        return torch.load(last, weights_only=True)["global_step"] if last.exists() else 0

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # or a node that comes back waits for what was said before it was there
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    nodes = [node(tmp_path, skies, port)]
    wait_for(lambda: listens(port), tmp_path)
    nodes += [node(tmp_path, skies, port)]
    wait_for(lambda: steps() >= 10, tmp_path)
    for pid in family(nodes[1].pid):
        os.kill(pid, signal.SIGKILL)
    nodes[1].wait()
    lost = steps()
    nodes[1] = node(tmp_path, skies, port)
    wait_for(lambda: steps() >= lost + 10, tmp_path)
    for process in nodes:
        process.send_signal(signal.SIGTERM)
    for process in nodes:
        process.wait(timeout=120)
    assert (
        f"after step {steps()}; go on with --ckpt_path {last}" in (tmp_path / "said").read_text()
    )
