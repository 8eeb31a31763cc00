"""Loading of training batches so that a killed run goes on, on any number of processes.

Every epoch has one order of all samples. A batch is what comes next in it: the processes share it
by taking every `replicas`th sample. How far a run is in its epoch is therefore one number, which
does not depend on the number of processes or the size of their batches.

Where samples come from chunks of which only some are kept, the order is shuffled as if all were
there, and then sorted, so that it visits some chunks, drawn at random, after the other.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data.distributed import DistributedSampler

T = TypeVar("T")


class EpochBatches(DistributedSampler[list[tuple[int, int]]]):
    """Shuffle a data set into batches of indices `(epoch, i)`, from which random clips are drawn.

    No sample is left out, so the last batch may be smaller. None is repeated, unless fewer are
    left than there are processes and the batch before has none to spare.

    Args:
        dataset: The data set.
        batch_size: Samples per batch and process.
        replicas: Number of processes.
        rank: Number of this process.
        seed: Seed of the order, which differs between epochs.
        near: The chunk of each sample, the samples after those beginning again, and how many
            chunks to visit together; all if not given.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int = 1,
        replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
        near: tuple[Tensor, int] | None = None,
    ) -> None:
        super().__init__(dataset, num_replicas=replicas, rank=rank, shuffle=True, seed=seed)
        self.samples, self.size = len(dataset), batch_size * replicas  # pyright: ignore[reportArgumentType]
        self.near = near
        self.start = 0  # samples that were seen already, in the next epoch to be iterated

    def __len__(self) -> int:
        """Count the batches of a whole epoch."""
        return len(self.ends(0))

    def ends(self, start: int) -> list[int]:
        """List how many samples have been seen after each batch that follows a start."""
        ends = [*range(start + self.size, self.samples, self.size), self.samples]
        if len(ends) > 1 and self.size > self.num_replicas:  # or some had nothing in the last one
            ends[-2] = min(ends[-2], self.samples - self.num_replicas)
        return ends if start < self.samples else []

    def order(self) -> Tensor:
        """Draw the order of the samples of the epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.samples, generator=generator)
        if self.near is not None:
            chunks, together = self.near
            turns = torch.randperm(int(chunks.max()) + 1, generator=generator) // together
            order = order[turns[chunks[order % len(chunks)]].argsort(stable=True)]
        return order

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        start, self.start = self.start, 0
        order = self.order()
        for first, last in pairwise([start, *self.ends(start)]):
            own = first + self.rank % (last - first)
            yield [(self.epoch, i) for i in order[own : last : self.num_replicas].tolist()]


class Batched(Dataset[Any]):
    """A data set of single samples that is read a batch at a time, as `EpochBatches` asks for."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, indices: list[tuple[int, int]]) -> Any:  # noqa: ANN401
        return default_collate([self.dataset[index] for index in indices])


class ResumableLoader(DataLoader[T]):
    """A DataLoader over `EpochBatches`, without a batch size, that continues in mid-epoch.

    Lightning keeps what `state_dict` returns in its checkpoints: the samples that all processes
    together were handed out, not those that workers read ahead.
    """

    _epoch, _seen = -1, 0  # an epoch, and how many of its samples are over
    _loaded = False  # whether a state says so that was not gone on from yet

    @property
    def batches(self) -> EpochBatches:
        assert isinstance(self.sampler, EpochBatches)
        return self.sampler

    @property
    def start(self) -> int:
        """Samples of the epoch to come that are over already."""
        return self._seen if self._loaded and self._epoch == self.batches.epoch else 0

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._epoch, self._seen, self._loaded = self.batches.epoch, self.start, False
        self.batches.start, ends = self._seen, self.batches.ends(self._seen)
        for batch, self._seen in zip(super().__iter__(), ends, strict=True):
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self._epoch, "samples": self._seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        # Older states count batches; they tell the samples if nothing else has changed since.
        seen = state["samples"] if "samples" in state else state["seen"] * self.batches.size
        self._epoch, self._seen, self._loaded = state["epoch"], seen, True

    def batches_over(self) -> int:
        """Count the batches that a loaded state leaves out of the epoch's."""
        return len(self.batches) - len(self.batches.ends(self._seen))
