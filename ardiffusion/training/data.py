"""The data of both stages: clips of videos, or latents that an AR-VAE wrote of them."""

from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Subset

from ardiffusion.data.cache import Index
from ardiffusion.data.clips import ClipDataset, RandomClipDataset, Video
from ardiffusion.data.index import index_clips, usable_clips
from ardiffusion.data.latents import LatentDataset, RandomLatentDataset, open_cache
from ardiffusion.data.layouts import Entry, class_names, find_clips
from ardiffusion.data.loader import EpochSampler, ResumableLoader
from ardiffusion.data.splits import NAMES, read_list, split_clips
from ardiffusion.data.windows import span


class VideoDataModule(LightningDataModule):
    """Clips of a folder of videos, of class folders of videos, or of folders of frames.

    Args:
        root: Folder of the data set.
        resolution: Height and width of the clips; the short side is scaled, the centre cropped.
        frames: Frames per clip.
        stride: Step between two frames of a clip.
        batch_size: Clips per batch and device.
        workers: Processes that read clips, per device.
        clips_per_video: Random clips of each video in one training epoch.
        val_fraction: Fraction of the videos to validate on, when there is no `val_list`.
        test_fraction: Fraction of the videos to test on, when there is no `test_list`.
        train_list: Text file with one video per line, or folder of `root`, to train on; without
            it, all videos that the other lists do not name.
        val_list: Text file or folder of `root` with the videos to validate on.
        test_list: Text file or folder of `root` with the videos to test on.
        max_broken: Largest fraction of broken, empty or too short videos that is skipped.
        latents: Folder of a latent cache; train and val batches then come from there.
        cache: Folder for the index of frame counts, ~/.cache/ardiffusion by default.
        seed: Seed of the split, of the order and of the random clips.
    """

    def __init__(
        self,
        root: str = "data",
        resolution: int = 256,
        frames: int = 16,
        stride: int = 1,
        batch_size: int = 8,
        workers: int = 4,
        clips_per_video: int = 1,
        val_fraction: float = 0.05,
        test_fraction: float = 0.0,
        train_list: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        max_broken: float = 0.05,
        latents: str | None = None,
        cache: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"resolution": resolution, "frames": frames, "stride": stride}
        sizes |= {"batch_size": batch_size, "clips_per_video": clips_per_video}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"--data.{name} is {value} and must be at least 1.")
        self.root, self.latents, self.cache = Path(root).expanduser(), latents, cache
        self.resolution, self.frames, self.stride = resolution, frames, stride
        self.batch_size, self.workers = batch_size, workers
        self.clips_per_video, self.max_broken, self.seed = clips_per_video, max_broken, seed
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.lists = {"train": train_list, "val": val_list, "test": test_list}
        # tells the keys of clips that need no prediction, once the weights are there
        self.skip: Callable[[], Collection[str]] = tuple
        self.allow_zero_length_dataloader_with_multiple_devices = True  # few clips may be left

    @cached_property
    def _entries(self) -> list[Entry]:
        return find_clips(self.root)

    @cached_property
    def _usable(self) -> dict[str, int]:
        """The number of frames of each usable video."""
        paths = [entry.path for entry in self._entries]
        counts = index_clips(self.root, paths, cache=self.cache)
        need = span(self.frames, self.stride)
        return usable_clips(self.root, counts, frames=need, max_broken=self.max_broken)

    @cached_property
    def videos(self) -> dict[str, list[Video]]:
        """The usable videos of each split."""
        # lists and fractions see all files, so that a broken one does not move the others
        paths, usable = [entry.path for entry in self._entries], self._usable
        listed = {
            name: read_list(path, root=self.root, clips=paths)
            for name, path in self.lists.items()
            if path is not None
        }
        splits = split_clips(paths, listed=listed, fractions=self.fractions, seed=self.seed)
        names = class_names(self._entries)
        label = {e.path: names.index(e.label) if e.label else -1 for e in self._entries}
        return {
            name: [Video(path, usable[path], label[path]) for path in found if path in usable]
            for name, found in splits.items()
        }

    @property
    def _may_break(self) -> int:
        """How many videos may still turn out broken."""
        total = len(self._entries)
        return int(self.max_broken * total) - (total - len(self._usable))

    @cached_property
    def _index(self) -> Index | None:
        return None if self.latents is None else open_cache(self.latents)

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of their labels; empty where there are none."""
        return class_names(self._entries) if self._index is None else self._index["classes"]

    def check_latents(self, fingerprint: str) -> None:
        """Refuse a latent cache that another AR-VAE wrote."""
        if self.latents is not None:
            open_cache(self.latents, fingerprint=fingerprint)

    def prepare_data(self) -> None:
        if self._index is None:
            _ = self._usable  # one process counts frames, the others find them in the index

    def setup(self, stage: str | None = None) -> None:
        if self._index is None:
            _ = self.videos

    @property
    def _processes(self) -> tuple[int, int]:
        """The number of processes and the number of this one."""
        trainer = self.trainer
        return (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)

    def _loading(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }

    def _clips(self, videos: list[Video], frames: int | None = None) -> ClipDataset:
        return ClipDataset(
            self.root,
            videos,
            resolution=self.resolution,
            frames=frames or self.frames,
            stride=self.stride,
            may_break=self._may_break,
        )

    def _random(self) -> Dataset[Any]:
        if self.latents is not None:
            return RandomLatentDataset(
                self.latents,
                frames=self.frames,
                stride=self.stride,
                split="train",
                clips_per_video=self.clips_per_video,
                seed=self.seed,
            )
        return RandomClipDataset(
            self.root,
            self.videos["train"],
            resolution=self.resolution,
            frames=self.frames,
            stride=self.stride,
            may_break=self._may_break,
            clips_per_video=self.clips_per_video,
            seed=self.seed,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        dataset: Any = self._random()
        replicas, rank = self._processes
        if len(dataset) == 0:
            raise ValueError(
                f"No video under {self.latents or self.root} is left to train on: lower "
                "--data.val_fraction and --data.test_fraction or correct the lists."
            )
        sampler = EpochSampler(dataset, replicas=replicas, rank=rank, seed=self.seed)
        full = len(sampler) >= self.batch_size
        return ResumableLoader(dataset, sampler=sampler, drop_last=full, **self._loading())

    def _every(self, split: str) -> DataLoader[Any]:
        dataset: Dataset[Any]
        if self.latents is None:
            dataset = self._clips(self.videos[split])
        else:
            dataset = LatentDataset(self.latents, self.frames, stride=self.stride, split=split)
        return DataLoader(dataset, **self._loading())

    def val_dataloader(self) -> DataLoader[Any]:
        return self._every("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._every("test")

    def predict_keys(self) -> list[str]:
        """List the keys of all clips that `predict_dataloader` reads when none is skipped."""
        return self._clips(self._all()).keys()

    def _all(self) -> list[Video]:
        """Every video of every split, once."""
        return list({v.path: v for name in NAMES for v in self.videos[name]}.values())

    def predict_dataloader(self) -> DataLoader[Any]:
        dataset = ClipDataset(
            self.root,
            self._all(),
            resolution=self.resolution,
            frames=self.frames,
            stride=self.stride,
            may_break=self._may_break,
            skip=set(self.skip()),
        )
        return DataLoader(dataset, **self._loading())

    def clips(self, split: str, frames: int | None = None) -> DataLoader[Any]:
        """Load every real clip of a split, in a shuffled order that is always the same.

        Each process gets its share, without repeats.

        Args:
            split: "train", "val" or "test".
            frames: Frames per clip, those of the batches by default.
        """
        if split not in NAMES:
            raise ValueError(f"There is no split {split!r}: choose one of {', '.join(NAMES)}.")
        dataset = self._clips(self.videos[split], frames=frames)
        if self.videos[split] and not len(dataset):
            raise ValueError(
                f"No video of the {split} split under {self.root} has the {frames} frames asked "
                "for: ask for fewer."
            )
        replicas, rank = self._processes
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(self.seed))
        loading = {**self._loading(), "persistent_workers": False}
        return DataLoader(Subset(dataset, order.tolist()[rank::replicas]), **loading)
