"""The data of both stages: clips of videos, or latents that an AR-VAE wrote of them."""

import os
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader, Dataset, Subset

from ardiffusion.data.catalog import FRACTIONS, Catalog, SplitRule, read_catalog, usable_videos
from ardiffusion.data.clips import VideoFiles
from ardiffusion.data.latents import LatentCache
from ardiffusion.data.loader import Batched, EpochBatches, ResumableLoader
from ardiffusion.data.splits import NAMES, check_fractions
from ardiffusion.data.windows import EveryWindow, FrameSpan, RandomWindows, Reader, extent
from ardiffusion.training.checks import check_range


class VideoDataModule(LightningDataModule):
    """Clips of a folder of videos, of class folders of videos, or of folders of frames.

    Args:
        root: Folder of the data set.
        resolution: Height and width of the clips; the short side is scaled, the centre cropped.
            256 by default, or that of the latents.
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
        latents: Folder of a latent cache; train and val batches then come from there, and so do
            the classes and the split, which lists and fractions must not contradict.
        cache: Folder for the index of frame counts, ~/.cache/ardiffusion by default.
        seed: Seed of the split, of the order and of the random clips.
    """

    def __init__(
        self,
        root: str = "data",
        resolution: int | None = None,
        frames: int = 16,
        stride: int = 1,
        batch_size: int = 8,
        workers: int = 4,
        clips_per_video: int = 1,
        val_fraction: float = FRACTIONS["val"],
        test_fraction: float = FRACTIONS["test"],
        train_list: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        max_broken: float = 0.05,
        latents: str | None = None,
        cache: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_range(1, resolution=1 if resolution is None else resolution, frames=frames)
        check_range(1, stride=stride, batch_size=batch_size, clips_per_video=clips_per_video)
        check_range(0, workers=workers)
        check_range(0, 1, val_fraction=val_fraction, test_fraction=test_fraction)
        check_range(0, 1, max_broken=max_broken)
        check_range(-(2**62), 2**62, seed=seed)  # torch takes no others
        self.root, self.latents, self.cache = Path(root).expanduser(), latents, cache
        self.frames, self.stride, self.seed = frames, stride, seed
        self.batch_size, self.workers = batch_size, workers
        self.clips_per_video, self.max_broken = clips_per_video, max_broken
        lists = {"train": train_list, "val": val_list, "test": test_list}
        self.rule = SplitRule(
            self.root,
            lists={name: os.path.expanduser(p) for name, p in lists.items() if p is not None},
            fractions={"val": val_fraction, "test": test_fraction},
            seed=seed,
        )
        check_fractions(self.rule.fractions)
        self._resolution = resolution
        # tells the keys of clips that need no prediction, once the weights are there
        self.skip: Callable[[], Collection[str]] = tuple
        self.allow_zero_length_dataloader_with_multiple_devices = True  # few clips may be left

    @cached_property
    def _latent_cache(self) -> LatentCache | None:
        """The latent cache, once it is known that no option contradicts it."""
        if self.latents is None:
            return None
        found = LatentCache(self.latents)
        theirs = found.index["origin"]["resolution"]
        if self._resolution not in (None, theirs):
            raise ValueError(
                f"--data.resolution is {self._resolution}, but latent cache {self.latents} holds "
                f"videos of {theirs} x {theirs}: leave it out or encode again."
            )
        self.rule.check(found.index["splits"], source=f"latent cache {self.latents}")
        return found

    @property
    def resolution(self) -> int:
        """Height and width of the clips."""
        cached = self._latent_cache
        return cached.index["origin"]["resolution"] if cached else self._resolution or 256

    @cached_property
    def catalog(self) -> Catalog:
        """What is known of the videos: from the latent cache, or by looking at them."""
        if self._latent_cache:
            return self._latent_cache.index
        need = extent(self.frames, self.stride)
        return read_catalog(self.rule, need, max_broken=self.max_broken, cache=self.cache)

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of their labels; empty where there are none."""
        return self.catalog["classes"]

    @cached_property
    def videos(self) -> dict[str, list[FrameSpan]]:
        """The usable videos of each split, from their first frame to their last."""
        return usable_videos(self.catalog)

    def check_latents(self, fingerprint: str) -> None:
        """Refuse a latent cache that another AR-VAE wrote."""
        if self._latent_cache:
            self._latent_cache.check_fingerprint(fingerprint)

    def prepare_data(self) -> None:
        _ = self.catalog  # one process counts frames, the others find them in the index

    def setup(self, stage: str | None = None) -> None:
        _ = self.catalog

    @property
    def _processes(self) -> tuple[int, int]:
        """The number of processes and the number of this one."""
        trainer = self.trainer
        return (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)

    def _files(self) -> VideoFiles:
        return VideoFiles(self.root, resolution=self.resolution)

    def _source(self, split: str) -> tuple[Reader, list[FrameSpan]]:
        """Return what batches are read from, and the frames of a split there."""
        cached = self._latent_cache
        return (cached, cached.spans[split]) if cached else (self._files(), self.videos[split])

    def _cut(
        self, reader: Reader, spans: list[FrameSpan], frames: int | None = None
    ) -> EveryWindow:
        """Make a data set of every clip."""
        frames, total = frames or self.frames, len(self.catalog["labels"])
        may_break = int(self.max_broken * total) - (total - len(self.catalog["lengths"]))
        clips = EveryWindow(reader, spans, frames, stride=self.stride, may_break=may_break)
        if spans and not clips.videos:
            raise ValueError(
                f"No video of this split under {reader.place} has the "
                f"{extent(frames, self.stride)} frames asked for in a row: lower --data.frames or "
                "--data.stride."
            )
        return clips

    def _load(self, clips: Dataset[Any], **options: Any) -> DataLoader[Any]:  # noqa: ANN401
        settings = {
            "batch_size": self.batch_size,
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }
        kind = ResumableLoader if "sampler" in options else DataLoader
        return kind(clips, **{**settings, **options})

    def train_dataloader(self) -> DataLoader[Any]:
        every = self._cut(*self._source("train"))
        clips = RandomWindows(every, self.clips_per_video, seed=self.seed)
        if len(clips) == 0:
            raise ValueError(
                f"No video under {every.reader.place} is left to train on: lower "
                "--data.val_fraction and --data.test_fraction or correct the lists."
            )
        batches = EpochBatches(clips, self.batch_size, *self._processes, seed=self.seed)
        loader = self._load(Batched(clips), sampler=batches, batch_size=None)
        if self.trainer is not None and self.trainer.fit_loop.restarting:
            continue_epoch(self.trainer, loader)
        return loader

    def val_dataloader(self) -> DataLoader[Any]:
        return self._load(self._cut(*self._source("val")))

    def test_dataloader(self) -> DataLoader[Any]:
        return self._load(self._cut(*self._source("test")))

    def _all(self) -> EveryWindow:
        """Make a data set of every clip of every video, be it in one split or in two."""
        videos = {video.path: video for name in NAMES for video in self.videos[name]}
        return self._cut(self._files(), list(videos.values()))

    def predict_keys(self) -> list[str]:
        """List the keys of all clips that `predict_dataloader` reads when none is skipped."""
        return self._all().keys()

    def predict_dataloader(self) -> DataLoader[Any]:
        clips, skip = self._all(), self.skip()
        return self._load(Subset(clips, [i for i, k in enumerate(clips.keys()) if k not in skip]))

    def clips(self, split: str, frames: int | None = None) -> DataLoader[Any]:
        """Load every real clip of a split, in a shuffled order that is always the same.

        Each process gets its share, without repeats.

        Args:
            split: "train", "val" or "test".
            frames: Frames per clip, those of the batches by default.
        """
        if split not in NAMES:
            raise ValueError(f"There is no split {split!r}: choose one of {', '.join(NAMES)}.")
        frames = frames or self.frames
        clips = self._cut(self._files(), self.videos[split], frames=frames)
        replicas, rank = self._processes
        order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(self.seed))
        share = Subset(clips, order.tolist()[rank::replicas])
        return self._load(share, persistent_workers=False)


def continue_epoch(trainer: Trainer, loader: DataLoader[Any]) -> None:
    """Count a resumed epoch's batches as if all of them had been of the size that they have now.

    Lightning counts them to know when an epoch ends, and takes all epochs for equally long.
    """
    for state in trainer.fit_loop._combined_loader_states_to_load:
        assert isinstance(loader, ResumableLoader)
        loader.load_state_dict(state)
        now = trainer.fit_loop.epoch_loop.batch_progress.current
        moved = loader.batches_over() - now.ready
        for name, count in vars(now).items():
            setattr(now, name, count + moved)
