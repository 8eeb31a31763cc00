"""Keeps what a run made: its last step, whatever ends it, and its folder from other runs."""

import os
from contextlib import ExitStack
from pathlib import Path
from signal import Signals
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from ardiffusion.files import only_writer
from ardiffusion.training.signals import StopSignals
from ardiffusion.training.spike_detector import LOG
from ardiffusion.training.step_guard import log_folder


class SaveLast(Callback):
    """Writes `last.ckpt` after the last batch, for each ModelCheckpoint with `save_last`.

    The last batch is that of `max_steps` or `max_epochs`, or the one after which something asks
    the trainer to stop, as `max_time` and signals do. Lightning saves only where nothing was saved
    before, and so late that a longer run, resumed from there, would pass over the rest of the
    epoch. Checkpoints that others save so late say where the last batch was, too.

    A stop between the batches of one optimiser step waits for that step; checkpoints that others
    save there hold the gradients gathered so far, too. A resumed run's timer goes on counting, so
    `max_time` is the time of the whole run. While a run trains, its folder has no other writer.
    """

    def __init__(self, signals: StopSignals | None = None) -> None:
        self.signals = signals or StopSignals()
        self.saved = -1  # the step
        self.deferred = False  # whether a stop waits for the optimiser
        self.loops: dict[str, Any] | None = None  # where training was when validation began
        self.end: dict[str, Any] | None = None  # where it was after the last batch
        self.lock = ExitStack()
        self.gathered: dict[str, Tensor] = {}  # gradients that no step had used
        self.clips = 0  # that an optimiser step sees

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Come after every callback that may stop the run, but before those that save."""
        others = [callback for callback in trainer.callbacks if callback is not self]  # pyright: ignore[reportAttributeAccessIssue]
        order = sorted([*others, self], key=lambda callback: isinstance(callback, Checkpoint))
        trainer.callbacks = order  # pyright: ignore[reportAttributeAccessIssue]
        self.saved, self.deferred, self.loops = -1, False, None
        self.signals.watch(trainer)
        folder = run_folder(trainer)
        if stage == "fit" and folder is not None and trainer.is_global_zero:
            self.lock.enter_context(only_writer(folder))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the epoch after a checkpoint of an epoch's last batch, which Lightning forgets.

        Resumed once more, in that epoch, it would take the epoch for the one before.
        """
        epochs = trainer.fit_loop.epoch_progress.current
        if trainer.fit_loop.restarted_mid_epoch and epochs.processed == epochs.ready:  # pyright: ignore[reportAttributeAccessIssue]
            trainer.fit_loop.reset_restart_stage()
        for name, parameter in pl_module.named_parameters():
            if name in self.gathered:
                parameter.grad = self.gathered.pop(name).to(parameter.device)
        self.signals.busy, self.end = True, None
        self.tell_clips(trainer, pl_module)

    def tell_clips(self, trainer: Trainer, module: LightningModule) -> None:
        """Say how many clips a step sees, and when that is another number than before."""
        batch, before = getattr(trainer.datamodule, "batch_size", 0), self.clips  # pyright: ignore[reportAttributeAccessIssue]
        gathered, world = gathered_by(module) * trainer.accumulate_grad_batches, trainer.world_size
        self.clips = clips = batch * world * gathered
        if clips:
            parts = f"{batch} a batch x {world} processes x {gathered} batches gathered"
            rank_zero_info(f"A step sees {clips} clips: {parts}.")
        if clips and before and clips != before:
            stage_1 = hasattr(module, "accumulate")
            option = "model.accumulate" if stage_1 else "trainer.accumulate_grad_batches"
            rank_zero_warn(
                f"A step of this run saw {before} clips before, and sees {clips} now: for as "
                f"many, --data.batch_size x --{option} must be {before / world:g}."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: object, **__: object
    ) -> None:
        """Save if this was the last batch; averages are moved by then."""
        epochs = trainer.current_epoch + 1 == trainer.max_epochs and trainer.is_last_batch
        self.on_train_epoch_end(trainer, pl_module)
        if trainer.global_step == trainer.max_steps or epochs:
            self.save(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let a signal break off validation, unless gradients or other processes wait."""
        waits = trainer.world_size > 1 or gathering(trainer, pl_module)
        if self.signals.busy and not waits:
            self.loops, self.signals.busy = trainer.fit_loop.state_dict(), False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if validation ends the run, as early stopping does."""
        self.signals.busy |= self.loops is not None
        self.loops = None
        if self.signals.busy:
            self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if the run stops here, which `min_steps` and `min_epochs` may put off."""
        self.defer_stop(trainer, pl_module)
        if trainer.should_stop and trainer.fit_loop._can_stop_early:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, *_: object, **__: object) -> None:
        """Say how to go on; from here on a signal ends the run at once."""
        self.signals.busy = False
        if self.signals.received:
            name = Signals(self.signals.received).name
            places = [getattr(c, "last_model_path", "") for c in trainer.checkpoint_callbacks]
            more = "".join(f"; go on with --ckpt_path {place}" for place in places if place)
            rank_zero_info(f"Stopped by {name} after step {trainer.global_step}{more}.")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save what is whole if a signal broke off validation, or readers of the next batch."""
        batches = trainer.fit_loop.epoch_loop.batch_progress.current
        trains = self.signals.busy or self.loops is not None
        if trains and self.signals.received and trainer.world_size == 1:
            if batches.ready == batches.completed and not gathering(trainer, pl_module):
                self.save(trainer)
                self.on_train_end(trainer)
        self.signals.busy = False
        self.lock.close()
        self.signals.explain(trainer, exception)

    def teardown(self, *_: object, **__: object) -> None:
        self.lock.close()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep gradients that no step has used, and where the last batch was.

        Their mean over all processes, each of which may have gathered its own.
        """
        if gathering(trainer, pl_module):
            grads = {name: p.grad for name, p in pl_module.named_parameters()}
            checkpoint["gathered"] = {
                name: trainer.strategy.reduce(grad.clone(), reduce_op="mean")
                for name, grad in grads.items()
                if type(grad) is Tensor  # those of sharded parameters are parts alone
            }
        checkpoint["clips_per_step"] = self.clips
        place = self.loops if trainer.interrupted and self.loops is not None else self.end
        if place is not None:
            checkpoint["loops"]["fit_loop"] = place

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.clips = checkpoint.get("clips_per_step", 0)
        self.gathered = checkpoint.get("gathered", {})

    def defer_stop(self, trainer: Trainer, module: LightningModule) -> None:
        """Put off a stop while gradients are gathered, and let it happen after that."""
        gathers = gathering(trainer, module)
        wanted = trainer.should_stop or self.deferred
        if not gathers and self.signals.asked(trainer):
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None
            trainer.fit_loop.epoch_loop._skip_next_val = wanted = True
        self.deferred = wanted and gathers
        trainer.should_stop = wanted and not self.deferred

    def save(self, trainer: Trainer) -> None:
        """Save once for each callback that keeps a last checkpoint."""
        if self.saved == trainer.global_step:
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.save_last and callback.dirpath:
                self.save_last(trainer, callback)
        self.saved, self.end = trainer.global_step, trainer.fit_loop.state_dict()

    def save_last(self, trainer: Trainer, callback: ModelCheckpoint) -> None:
        """Write the `last.ckpt` of a callback, but leave that of another run to Lightning."""
        name = f"{callback.CHECKPOINT_NAME_LAST}{callback.FILE_EXTENSION}"
        path = callback.last_model_path or str(Path(str(callback.dirpath), name))
        if callback.last_model_path or not Path(path).exists():
            callback.last_model_path = path
            trainer.save_checkpoint(path, weights_only=callback.save_weights_only)
            callback._last_checkpoint_saved = path  # or Lightning writes it again, too late


def gathering(trainer: Trainer, module: LightningModule) -> bool:
    """Say whether there are gradients that no optimiser step has used yet."""
    waits = trainer.global_step % gathered_by(module) != 0
    return waits or trainer.fit_loop._should_accumulate()


def gathered_by(module: LightningModule) -> int:
    """Return how many batches of a step a module gathers by itself, as stage 1 does."""
    return int(getattr(module, "accumulate", 1))


def run_folder(trainer: Trainer) -> Path | None:
    """Return the folder that a run writes into; None if it only tries a few batches."""
    folder = log_folder(trainer)
    return None if trainer.fast_dev_run else folder  # pyright: ignore[reportAttributeAccessIssue]


def newest_last(trainer: Trainer) -> str | None:
    """Find the newest `last.ckpt` that a run has left; None if there is none yet."""
    callbacks = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    found = {path for callback in callbacks for path in callback._find_last_checkpoints(trainer)}
    return max(found, key=os.path.getmtime, default=None)


def refuse_second_run(trainer: Trainer, ckpt_path: str | None) -> None:
    """Raise if `fit` would write over another run than that of `ckpt_path`.

    Call it before processes are launched.
    """
    folder = run_folder(trainer)
    begins = ckpt_path == "last" and newest_last(trainer) is None
    if folder is None or (ckpt_path and not begins):
        return
    own = [getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks]
    places = {folder / "checkpoints", *map(Path, filter(None, own))}
    found = sorted(file for place in places for file in place.glob("*.ckpt"))
    log = folder / LOG
    if not found and (begins or not (log.exists() and log.stat().st_size)):
        return  # or was killed before its first checkpoint
    last = [file for file in found if file.name == "last.ckpt"] or found
    way = f"go on with it by --ckpt_path {last[-1]}" if last else f"remove {log}, its log"
    option = "logger.init_args.save_dir" if trainer.loggers else "default_root_dir"
    raise ValueError(
        f"{folder} holds a run already: {way}, or keep this run elsewhere by --trainer.{option}."
    )
