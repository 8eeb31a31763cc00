"""Write the latents that `ardiff-vae predict` computes into a latent cache."""

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from ardiffusion.data.cache import INDEX, Index
from ardiffusion.data.encoding import ShardWriter, begin_cache, finish_cache
from ardiffusion.data.stamp import stamp
from ardiffusion.files import only_writer, write_json
from ardiffusion.nn.fingerprint import fingerprint
from ardiffusion.training.data import VideoDataModule


class LatentWriter(BasePredictionWriter):
    """Write predicted latents into a cache; a killed run resumes, a finished one does nothing.

    Args:
        output: Folder of the latent cache.
        clips_per_shard: Clips per file; a killed run repeats at most these, per process.
    """

    def __init__(self, output: str = "latents", clips_per_shard: int = 256) -> None:
        super().__init__(write_interval="batch")
        if clips_per_shard < 1:
            raise ValueError(f"clips_per_shard is {clips_per_shard} and must be at least 1.")
        self.output, self.clips_per_shard = Path(output).expanduser(), clips_per_shard
        self.shards: ShardWriter | None = None
        self.done: set[str] = set()
        self.lock = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        data = _data(trainer)
        # weights are loaded after setup and before the dataloader is asked for
        data.skip = lambda: self._begin(trainer, pl_module, data)

    def _begin(
        self, trainer: Trainer, pl_module: LightningModule, data: VideoDataModule
    ) -> Collection[str]:
        arvae = pl_module.arvae
        assert isinstance(arvae, nn.Module)
        begun: Any = None
        if trainer.is_global_zero:
            self.lock.enter_context(only_writer(self.output))
            index = _describe(data, fingerprint(arvae))
            begun = (index, begin_cache(self.output, index))
        # all ranks have one view of the cache before any of them adds to it
        index, self.done = trainer.strategy.broadcast(begun)
        left = len(set(data.predict_keys()) - self.done)
        if left == 0:
            rank_zero_info(f"Latent cache {self.output} is finished: nothing to encode.")
        elif self.done:
            rank_zero_info(f"Latent cache {self.output} is resumed: {left} clips to encode.")
        if left > 0 and trainer.is_global_zero:
            write_json(self.output / INDEX, index)
        rank = trainer.global_rank
        self.shards = ShardWriter(self.output, index, rank=rank, clips=self.clips_per_shard)
        return self.done

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Mapping[str, Any],
        *_: object,
        **__: object,
    ) -> None:
        assert self.shards is not None
        # a clip that stands in for a broken one comes twice
        fresh = {key: i for i, key in enumerate(prediction["key"]) if key not in self.done}
        self.done.update(fresh)
        if fresh:
            self.shards.write(prediction["latents"][list(fresh.values())], list(fresh))

    def on_exception(self, *_: object, **__: object) -> None:
        with self.lock:
            if self.shards is not None:
                self.shards.flush()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # not on_predict_end, which a rank without clips never reaches
        with self.lock:
            if self.shards is not None:
                self._finish(trainer, self.shards)
                self.shards = None

    def _finish(self, trainer: Trainer, shards: ShardWriter) -> None:
        shards.flush()
        trainer.strategy.barrier()
        if trainer.is_global_zero and trainer.limit_predict_batches == 1.0:
            index = finish_cache(self.output, shards.index, _data(trainer).predict_keys())
            clips = sum(map(len, index["shards"].values()))
            rank_zero_info(f"{self.output / INDEX} lists {clips} clips.")


def _data(trainer: Trainer) -> VideoDataModule:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, VideoDataModule):
        raise ValueError(
            f"LatentWriter writes clips of VideoDataModule and not of {type(data).__name__}: "
            "pass --data VideoDataModule."
        )
    return data


def _describe(data: VideoDataModule, arvae: str) -> Index:
    return {
        **data.catalog,
        "origin": {
            "fingerprint": arvae,
            "resolution": data.resolution,
            "frames": data.frames,
            "stride": data.stride,
        },
        "complete": False,
        "stamps": {path: stamp(data.root / path) for path in data.catalog["lengths"]},
        "missing": [],
        "shards": {},
        "hashes": {},
    }
