"""Loading of training batches, of clips and pictures, so that a killed run goes on.

Every epoch has one order of all samples. A batch is what comes next in it: the processes share it
by taking every `replicas`th sample. How far a run is in its epoch is therefore one number, which
does not depend on the number of processes or the size of their batches. Pictures have another.

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

from ardiffusion.data.windows import EveryWindow

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


def share_of_pictures(asked: float | None, videos: bool, pictures: bool) -> float:
    """Return the share of an epoch's batches that are pictures, of what there is."""
    if asked is not None and not pictures:
        raise ValueError(
            f"--data.image_share is {asked}, but there are no pictures: give --data.images."
        )
    if not (videos and pictures):
        return float(pictures)
    return 0.5 if asked is None else asked


class Rounds(Dataset[dict[str, Any]]):
    """So many pictures an epoch, which begins where the last one ended, round after round.

    Args:
        every: The pictures.
        samples: How many come in an epoch.
        seed: Seed of their order.
    """

    def __init__(self, every: EveryWindow, samples: int, seed: int = 0) -> None:
        self.every, self.samples = every, samples
        generator = torch.Generator().manual_seed(seed)
        self.order = torch.randperm(len(every), generator=generator)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Any]:
        epoch, place = index
        return self.every[int(self.order[(epoch * self.samples + place) % len(self.order)])]


class MixedLoader:
    """An epoch of clips, with batches of pictures spread evenly between theirs.

    What comes next follows from how far both are, so that all processes read the same kind at a
    time, and a resumed run goes on as it would have.
    """

    def __init__(self, clips: ResumableLoader[Any], pictures: ResumableLoader[Any]) -> None:
        self.loaders, self._seen = (clips, pictures), [0, 0]
        self.sampler = self  # whom Lightning tells the epoch

    def set_epoch(self, epoch: int) -> None:
        for loader in self.loaders:
            loader.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return sum(map(len, self.loaders))

    def __iter__(self) -> Iterator[Any]:
        batches = [iter(loader) for loader in self.loaders]
        totals = [loader.batches.samples for loader in self.loaders]
        # a run that goes on with other data may have seen more
        self._seen = seen = [min(x.start, n) for x, n in zip(self.loaders, totals, strict=True)]
        while seen != totals:
            behind = seen[1] * totals[0] < seen[0] * totals[1]  # the pictures are
            batch = next(batches[behind])
            seen[behind] = self.loaders[behind].state_dict()["samples"]
            yield batch

    def state_dict(self) -> dict[str, int]:
        clips, pictures = self._seen
        return {**self.loaders[0].state_dict(), "samples": clips, "pictures": pictures}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on with clips, and with pictures unless they are new to the run."""
        clips, pictures = self.loaders
        clips.load_state_dict(state)
        pictures.load_state_dict({**state, "samples": state.get("pictures", 0)})
        self._seen = [loader.state_dict()["samples"] for loader in self.loaders]

    def batches_over(self) -> int:
        """Count the batches that a loaded state leaves out of the epoch's."""
        return sum(loader.batches_over() for loader in self.loaders)
