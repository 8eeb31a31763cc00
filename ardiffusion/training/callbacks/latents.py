"""Write the latents that `ardiff-vae predict` computes into a latent cache."""

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from ardiffusion.data.cache import ShardWriter, begin_cache, finish_cache
from ardiffusion.data.cache_index import INDEX, Index, Origin, describe, write_index
from ardiffusion.data.footage import Footage
from ardiffusion.data.publishing import publish, staging_folder
from ardiffusion.data.storage import below, locate
from ardiffusion.files import only_writer
from ardiffusion.nn.fingerprint import fingerprint
from ardiffusion.nn.sizes import LARGEST, check_range
from ardiffusion.training.data import VideoDataModule


class LatentWriter(Callback):
    """Write predicted latents into a cache; a killed run resumes, a finished one does nothing.

    Args:
        output: Folder of the latent cache, or an address in object storage, to which latents are
            written when all are there.
        clips_per_shard: Clips per file; a killed run repeats at most these, per process.
    """

    def __init__(self, output: str = "latents", clips_per_shard: int = 256) -> None:
        check_range("{}", 1, LARGEST, clips_per_shard=clips_per_shard)
        self.clips_per_shard = clips_per_shard
        place = locate(output)
        self.address = None if isinstance(place, Path) else place
        self.output = place if isinstance(place, Path) else staging_folder(place)
        # of the videos and of the pictures, as far as there are any
        self.shards: list[ShardWriter] = []
        self.done: list[set[str]] = []
        self.lock = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "predict":
            # weights are loaded after setup and before the dataloader is asked for
            data_of(trainer).skip = lambda footage: self._begin(trainer, pl_module, footage)

    def _begin(
        self, trainer: Trainer, pl_module: LightningModule, footage: Footage
    ) -> Collection[str]:
        arvae, place = pl_module.arvae, self.output / footage.part
        assert isinstance(arvae, nn.Module)
        begun: Any = None
        if trainer.is_global_zero:
            self.lock.enter_context(only_writer(place))
            index = _describe(footage, fingerprint(arvae))
            begun = (index, begin_cache(place, index))
        # all ranks have one view of the cache before any of them adds to it
        index, done = trainer.strategy.broadcast(begun)
        left = len(set(footage.every().keys()) - done)
        if left == 0:
            rank_zero_info(f"Latent cache {place} is finished: nothing to encode.")
        elif done:
            rank_zero_info(f"Latent cache {place} is resumed: {left} clips to encode.")
        if left > 0 and trainer.is_global_zero:
            write_index(place / INDEX, index)
        rank = trainer.global_rank
        self.shards.append(ShardWriter(place, index, rank=rank, clips=self.clips_per_shard))
        self.done.append(done)
        return done

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Mapping[str, Any],
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        shards, done = self.shards[dataloader_idx], self.done[dataloader_idx]
        # a clip that stands in for a broken one comes twice
        fresh = {key: i for i, key in enumerate(outputs["key"]) if key not in done}
        done.update(fresh)
        if fresh:
            shards.write(outputs["latents"][list(fresh.values())], list(fresh))

    def on_exception(self, *_: object, **__: object) -> None:
        with self.lock:
            for shards in self.shards:
                shards.flush()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # not on_predict_end, which a rank without clips never reaches
        with self.lock:
            for shards, footage in zip(self.shards, data_of(trainer).footage, strict=False):
                self._finish(trainer, shards, footage)
            self.shards, self.done = [], []

    def _finish(self, trainer: Trainer, shards: ShardWriter, footage: Footage) -> None:
        shards.flush()
        trainer.strategy.barrier()
        if trainer.is_global_zero and trainer.limit_predict_batches == 1.0:
            index = finish_cache(shards.path, shards.index, footage.every().keys())
            clips = sum(len(shard["starts"]) for shard in index["shards"].values())
            rank_zero_info(f"{shards.path / INDEX} lists {clips} clips.")
            if self.address is not None:
                publish(shards.path, str(below(self.address, footage.part)))


def data_of(trainer: Trainer) -> VideoDataModule:
    return trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]


def _describe(footage: Footage, arvae: str) -> Index:
    origin: Origin = {
        "fingerprint": arvae,
        "resolution": footage.side,
        "frames": footage.frames,
        "stride": footage.stride,
    }
    return describe(footage.catalog, origin, footage.files.stamp)
