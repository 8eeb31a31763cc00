"""Keeps the end of a run whose length is no multiple of the checkpoints' interval."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class SaveFinish(Callback):
    """Writes `last.ckpt` after the last batch, for each ModelCheckpoint with `save_last`.

    Lightning does so only where nothing was saved before, and so late that a longer run, resumed
    from there, would pass over the rest of the epoch.
    """

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Save if this was the last batch; averages are moved by then, if they come before."""
        epochs = trainer.current_epoch + 1 == trainer.max_epochs and trainer.is_last_batch
        if trainer.global_step != trainer.max_steps and not epochs:
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.save_last and callback.dirpath:
                self.save_last(trainer, callback)

    def save_last(self, trainer: Trainer, callback: ModelCheckpoint) -> None:
        """Write the `last.ckpt` of a callback, but leave that of another run to Lightning."""
        name = f"{callback.CHECKPOINT_NAME_LAST}{callback.FILE_EXTENSION}"
        path = callback.last_model_path or str(Path(str(callback.dirpath), name))
        if callback.last_model_path or not Path(path).exists():
            callback.last_model_path = path
            trainer.save_checkpoint(path, weights_only=callback.save_weights_only)
            callback._last_checkpoint_saved = path  # or Lightning writes it again, too late
