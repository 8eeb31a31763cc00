"""What the tools' command lines share: errors in one sentence, and other commands to run."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from ardiffusion.training.messages import clear_messages

BIN = Path(sys.executable).parent
VAE, DIT, PYTHON = BIN / "ardiff-vae", BIN / "ardiff-dit", Path(sys.executable)


@contextmanager
def told_in_one_sentence() -> Iterator[None]:
    """Print bad input as the sentence that its error is, and leave with exit code 2."""
    try:
        with clear_messages():
            yield
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def words(*parts: str | Path) -> list[str]:
    """Put a command together: texts are split at spaces, paths may contain some."""
    split = (part.split() if isinstance(part, str) else [str(part)] for part in parts)
    return [word for part in split for word in part]


def run(name: str, command: Sequence[str], readers: int = 0) -> float:
    """Run a command in a process of its own, print it, and return its seconds.

    Args:
        name: What it is, printed as a headline.
        command: The program and its arguments.
        readers: Processes of its own that read clips. They get a core each, for threads that
            wait for each other lose more.

    Raises:
        SystemExit: If it fails, with its exit code.
    """
    console = Console(stderr=True)
    console.rule(f"[bold]{name}")
    shown = shlex.join([command[0].removeprefix(f"{BIN}/"), *command[1:]])
    console.print(shown, style="dim", soft_wrap=True, markup=False)
    start = time.monotonic()
    threads = str(max((os.cpu_count() or 1) - readers, 1))
    done = subprocess.run(command, env={"OMP_NUM_THREADS": threads} | os.environ)
    if done.returncode:
        raise SystemExit(done.returncode)
    return time.monotonic() - start
