"""Batches of clips and batches of pictures in one epoch."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset

from ardiffusion.data.loader import ResumableLoader
from ardiffusion.data.windows import EveryWindow


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

    Args:
        clips: Loads the clips.
        pictures: Loads the pictures of an epoch.
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
