"""Work in parallel that gives the same bits whatever the number of threads.

Threads that share one operation add in another order than one does. That costs rounding, which the
square roots of a singular covariance raise to 1e-9 of a Fréchet distance. How many threads there
are differs between machines, and between a process alone and one of torchrun's.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
U = TypeVar("U")


def in_threads(call: Callable[[T], U], things: Sequence[T]) -> list[U]:
    """Call a function on things in parallel, each call in one thread."""
    with one_thread() as threads:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(call, things))


@contextmanager
def one_thread() -> Iterator[int]:
    """Compute in one thread while the context lasts; give the number that there were."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
