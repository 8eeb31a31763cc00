"""Loading of training batches so that a killed run resumes to the same batches."""

from collections.abc import Iterator
from typing import Any, TypeVar, cast

from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

T = TypeVar("T")


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """Shuffle a data set into indices `(epoch, i)`, from which random clips are drawn.

    Args:
        dataset: The data set.
        replicas: Number of processes.
        rank: Number of this process.
        seed: Seed of the order, which differs between epochs.
    """

    def __init__(
        self, dataset: Dataset[Any], replicas: int = 1, rank: int = 0, seed: int = 0
    ) -> None:
        super().__init__(dataset, num_replicas=replicas, rank=rank, shuffle=True, seed=seed)
        self.skip = 0  # samples that were seen already, in the next epoch to be iterated

    def __iter__(self) -> Iterator[tuple[int, int]]:
        skip, self.skip = self.skip, 0
        indices = list(cast(Iterator[int], super().__iter__()))
        return iter([(self.epoch, index) for index in indices[skip:]])


class ResumableLoader(DataLoader[T]):
    """A DataLoader over an `EpochSampler` that continues in the middle of an epoch.

    Lightning keeps what `state_dict` returns in its checkpoints. The count is of the batches
    handed out, not of those that workers read ahead.
    """

    _seen = 0
    _resume: tuple[int, int] | None = None  # an epoch, and how many of its batches are over

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert isinstance(self.sampler, EpochSampler)
        resume, self._resume = self._resume, None
        first = resume[1] if resume is not None and resume[0] == self.sampler.epoch else 0
        self.sampler.skip = first * (self.batch_size or 1)
        for self._seen, batch in enumerate(super().__iter__(), start=first + 1):
            yield batch

    def state_dict(self) -> dict[str, int]:
        assert isinstance(self.sampler, EpochSampler)
        return {"epoch": self.sampler.epoch, "seen": self._seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume = (state["epoch"], state["seen"])
