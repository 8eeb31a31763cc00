"""How experiments are called, and the commands they are made of, as a user would type them."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from rich.console import Console

from ardiffusion.training.messages import user_errors

BIN = Path(sys.executable).parent
VAE, DIT, ARDIFF = BIN / "ardiff-vae", BIN / "ardiff-dit", BIN / "ardiff"
PYTHON = Path(sys.executable)


def run_script(
    script: Callable[..., Any] | list[Callable[..., Any]],
    args: list[str] | None,
    **options: Any,  # noqa: ANN401
) -> None:
    """Call a function, or one of several, by the command line; print its result as JSON."""
    with user_errors():
        result = auto_cli(script, args=args, exit_on_error=False, **options)
    if result is not None:
        print(json.dumps(result))


def command_line(*parts: str | Path) -> list[str]:
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
