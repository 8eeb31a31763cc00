"""A loader one of whose workers is killed."""

import time
from contextlib import suppress
from multiprocessing import active_children
from typing import Any

from ardiffusion.data.loader import ResumableLoader


def kill_a_worker(loader: ResumableLoader[Any]) -> tuple[dict[str, int], list[str]]:
    """Kill a worker after four batches; return how far the loader is, and the keys until there."""
    state, seen = loader.state_dict(), list[str]()
    try:
        for number, batch in enumerate(loader):
            seen += batch["key"]  # torch raises its error in any line, between these two as well
            state = loader.state_dict()
            if number == 3:
                active_children()[0].kill()
        raise AssertionError("The loader went on without its worker.")
    except (RuntimeError, OSError, EOFError):
        with suppress(RuntimeError):  # of torch, if the connection to the worker broke before
            time.sleep(1)
    return state, seen[: state["samples"]]
