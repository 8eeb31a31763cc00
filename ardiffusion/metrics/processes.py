"""Work that the processes of torchrun, or of a trainer, share."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import distributed

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, if it did."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank_and_world() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gather_parts(found: dict[int, T]) -> dict[int, T]:
    """Give every process what all of them have found."""
    _, world = rank_and_world()
    if world == 1:
        return found
    parts: list[Any] = [None] * world
    distributed.all_gather_object(parts, found)
    return {number: thing for part in parts for number, thing in part.items()}


def local_device(name: str) -> str:
    """Give each process of torchrun its GPU, in turn where there are more processes than GPUs."""
    rank = os.environ.get("LOCAL_RANK")
    if name != "cuda" or rank is None:
        return name
    return f"cuda:{int(rank) % max(torch.cuda.device_count(), 1)}"
