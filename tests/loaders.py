"""Loaders: what they give, and one of whose workers is killed."""

import time
from contextlib import suppress
from multiprocessing import active_children
from typing import Any

import torch

from ardiffusion.data.loader import ResumableLoader
from ardiffusion.training.data import VideoDataModule


def shuffled(data: VideoDataModule) -> ResumableLoader[Any]:
    loader = data.train_dataloader()
    assert isinstance(loader, ResumableLoader)
    return loader


def read_epochs(data: VideoDataModule, epochs: int) -> list[Any]:
    """Read the batches of so many epochs."""
    loader, found = shuffled(data), []
    for epoch in range(epochs):
        loader.batches.set_epoch(epoch)
        found += loader
    return found


def assert_same(one: list[Any], two: list[Any], name: str) -> None:
    assert [batch["key"] for batch in one] == [batch["key"] for batch in two]
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a[name], b[name]) and torch.equal(a["label"], b["label"])


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
