"""Computations that give the same bits whatever the number of threads, and in full float32.

Threads that share one operation add in another order than one does. That costs rounding, which the
square roots of a singular covariance raise to 1e-9 of a Fréchet distance. How many threads there
are differs between machines, and between a process alone and one of torchrun's. TensorFloat32 and
half precision would shift a distance by far more.
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


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in float32 on a device while the context lasts, and the same way every time."""
    # Unlike `allow_tf32`, this can be put back whatever was chosen by
    # `torch.set_float32_matmul_precision`.
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        with (
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
            torch.autocast(device_type=device.type, enabled=False),
        ):
            yield
    finally:
        matmul.fp32_precision = before
