"""The data of both stages: clips and pictures, or latents that an AR-VAE wrote of them."""

import os
from collections.abc import Callable, Collection
from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from ardiffusion.data.catalog import FRACTIONS, SplitRule
from ardiffusion.data.footage import Footage, with_pictures
from ardiffusion.data.loader import (
    Batched,
    EpochBatches,
    MixedLoader,
    ResumableLoader,
    Rounds,
    share_of_pictures,
)
from ardiffusion.data.spans import Spans
from ardiffusion.data.splits import check_fractions
from ardiffusion.data.storage import locate
from ardiffusion.data.windows import EveryWindow, RandomWindows
from ardiffusion.nn.sizes import check_range


class VideoDataModule(LightningDataModule):
    """Clips of a folder of videos, of class folders of videos, or of folders of frames.

    Args:
        root: Folder of the data set, or the address in object storage to which `ardiff publish`
            wrote it; `data` unless there are images alone.
        images: Folder of pictures, in class folders as videos may be, to train on as clips of one
            frame. Without a `root` they are all there is, split as videos are.
        image_share: Share of the batches of an epoch that are pictures, 0.5 by default. A batch
            holds pictures or clips, `batch_size` of either, and counts as one, be its frames few.
        resolution: Height and width of the clips; the short side is scaled, the centre cropped.
            256 by default, or that of the latents.
        frames: Frames per clip.
        stride: Step between two frames of a clip.
        batch_size: Clips per batch and device.
        workers: Processes that read clips, per device, and as many again that read pictures.
        clips_per_video: Random clips of each video in one training epoch.
        val_fraction: Fraction of the videos to validate on, when there is no `val_list`.
        test_fraction: Fraction of the videos to test on, when there is no `test_list`.
        train_list: Text file with one video per line, or folder of `root`, to train on; without
            it, all videos that the other lists do not name.
        val_list: Text file or folder of `root` with the videos to validate on.
        test_list: Text file or folder of `root` with the videos to test on.
        max_broken: Largest fraction of broken, empty or too short videos that is skipped.
        latents: Folder of a latent cache, or its address in object storage; train and val batches
            then come from there, and so do the classes and the split, which lists and fractions
            must not contradict.
        latents_room: Gigabytes of latents, and of videos, from object storage to keep in `cache`,
            per machine.
        cache: Folder for the index of videos and what comes from object storage,
            ~/.cache/ardiffusion by default.
        seed: Seed of the split, of the order and of the random clips.
    """

    def __init__(
        self,
        root: str | None = None,
        images: str | None = None,
        image_share: float | None = None,
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
        latents_room: float = 50,
        cache: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if root == "":
            raise ValueError("--data.root is empty: name the folder of a data set.")
        sizes = {"resolution": resolution, "frames": frames, "stride": stride}
        sizes |= {"batch_size": batch_size, "clips_per_video": clips_per_video}
        check_range("--data.{}", 1, **sizes)
        check_range("--data.{}", 0, workers=workers, latents_room=latents_room)
        check_range("--data.{}", -(2**62), 2**62, seed=seed)  # torch takes no others
        shares = {"val_fraction": val_fraction, "test_fraction": test_fraction}
        check_range("--data.{}", 0, 1, **shares, max_broken=max_broken, image_share=image_share)
        self.latents, self.cache, self.seed = latents, cache, seed
        self.frames, self.stride, self.clips_per_video = frames, stride, clips_per_video
        self.batch_size, self.workers = batch_size, workers
        lists = {"train": train_list, "val": val_list, "test": test_list}
        rule = SplitRule(
            locate(root or "data"),
            lists={name: os.path.expanduser(p) for name, p in lists.items() if p is not None},
            fractions={"val": val_fraction, "test": test_fraction},
            seed=seed,
        )
        check_fractions(rule.fractions)
        videos = Footage(
            rule,
            frames=frames,
            stride=stride,
            resolution=resolution,
            max_broken=max_broken,
            cache=cache,
            latents=None if latents is None else locate(latents),
            room=latents_room * 1e9,
        )
        self.footage = with_pictures(videos, images, alone=root is None and images is not None)
        self.main, self.pictures = self.footage[0], self.footage[-1]
        self.root = self.main.rule.root
        kinds = {"videos": self.main is videos, "pictures": self.pictures is not videos}
        self.image_share = share_of_pictures(image_share, **kinds)
        # tells the keys of clips that need no prediction, once the weights are there
        self.skip: Callable[[Footage], Collection[str]] = lambda _: ()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # few clips may be left

    @property
    def resolution(self) -> int:
        """Height and width of the clips."""
        return self.main.side

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of their labels; empty where there are none."""
        return self.main.catalog["classes"]

    @property
    def videos(self) -> dict[str, Spans]:
        """The usable videos of each split, from their first frame to their last."""
        return self.main.videos

    def check_latents(self, fingerprint: str) -> None:
        """Refuse a latent cache that another AR-VAE wrote."""
        for part in self.footage:
            if part.latent_cache:
                part.latent_cache.check_fingerprint(fingerprint)

    def prepare_data(self) -> None:
        self.setup()  # one process counts frames, the others find them in the index

    def setup(self, stage: str | None = None) -> None:
        for part in self.footage:
            # the first process of each machine has prepared the data, and hashed all latents
            part.checked = self.trainer is not None and self.trainer.local_rank > 0
            _ = part.catalog

    @property
    def _processes(self) -> tuple[int, int]:
        """The number of processes and the number of this one."""
        trainer = self.trainer
        return (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)

    @property
    def _loading(self) -> dict[str, Any]:
        return {
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }

    def _load(self, clips: Dataset[Any]) -> DataLoader[Any]:
        return DataLoader(clips, batch_size=self.batch_size, **self._loading)

    def _shuffled(
        self, clips: RandomWindows | Rounds, near: tuple[Tensor, int] | None = None
    ) -> ResumableLoader[Any]:
        processes = self._processes
        batches = EpochBatches(clips, self.batch_size, *processes, seed=self.seed, near=near)
        return ResumableLoader(Batched(clips), batch_size=None, sampler=batches, **self._loading)

    def _to_train_on(self, footage: Footage) -> EveryWindow:
        reader, spans = footage.source("train")
        if not spans:
            raise ValueError(
                f"No video under {reader.place} is left to train on: lower --data.val_fraction "
                "and --data.test_fraction or correct the lists."
            )
        return footage.cut(reader, spans)

    def train_dataloader(self) -> ResumableLoader[Any] | MixedLoader:
        share, only_pictures = self.image_share, self.image_share == 1
        footage = self.pictures if only_pictures else self.main
        every = self._to_train_on(footage)
        clips_per_video = 1 if only_pictures else self.clips_per_video
        windows = RandomWindows(every, clips_per_video, seed=self.seed)
        loader = self._shuffled(windows, footage.nearness(every))
        if 0 < share < 1:
            samples = max(1, round(loader.batches.samples * share / (1 - share)))
            pictures = Rounds(self._to_train_on(self.pictures), samples, seed=self.seed)
            loader = MixedLoader(loader, self._shuffled(pictures))
        if self.trainer is not None and self.trainer.fit_loop.restarting:
            continue_epoch(self.trainer, loader)
        return loader

    def val_dataloader(self) -> DataLoader[Any]:
        return self._load(self.main.cut(*self.main.source("val")))

    def test_dataloader(self) -> DataLoader[Any]:
        return self._load(self.main.cut(*self.main.source("test")))

    def predict_dataloader(self) -> list[DataLoader[Any]]:
        loaders: list[DataLoader[Any]] = []
        for part in self.footage:
            clips, skip = part.every(), self.skip(part)
            left = [i for i, key in enumerate(clips.keys()) if key not in skip]
            loaders.append(self._load(Subset(clips, left)))
        return loaders


def continue_epoch(trainer: Trainer, loader: ResumableLoader[Any] | MixedLoader) -> None:
    """Count a resumed epoch's batches as if all of them had been of the size that they have now.

    Lightning counts them to know when an epoch ends, and takes all epochs for equally long.
    """
    for state in trainer.fit_loop._combined_loader_states_to_load:
        loader.load_state_dict(state)
        now = trainer.fit_loop.epoch_loop.batch_progress.current
        moved = loader.batches_over() - now.ready
        for name, count in vars(now).items():
            setattr(now, name, count + moved)
