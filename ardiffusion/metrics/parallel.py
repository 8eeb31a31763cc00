"""Work that threads and processes share, in full float32: the same bits however many there are.

Threads that share one operation add in another order than one does. That costs rounding, which the
square roots of a singular covariance raise to 1e-9 of a Fréchet distance. How many threads there
are differs between machines, and between a process alone and one of torchrun's. TensorFloat32 and
half precision would shift a distance by far more.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

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


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, if it did."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("gloo", timeout=timedelta(days=365))  # reading takes its time
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank_and_world() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gather_parts(found: dict[int, T]) -> list[T]:
    """Give every process what all of them have found, in the order of its numbers."""
    _, world = rank_and_world()
    parts: list[Any] = [found] * world
    if world > 1:
        distributed.all_gather_object(parts, found)
    return [thing for _, thing in sorted(item for part in parts for item in part.items())]


def local_device(name: str) -> str:
    """Give each process of torchrun its GPU, in turn where there are more processes than GPUs."""
    rank = os.environ.get("LOCAL_RANK")
    if name != "cuda" or rank is None:
        return name
    return f"cuda:{int(rank) % max(torch.cuda.device_count(), 1)}"
