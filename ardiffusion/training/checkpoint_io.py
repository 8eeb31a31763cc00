"""Writing of checkpoints, all or nothing: a full disk or a crash leaves the last one as it was.

Lightning's own way copies a finished file over the target when they lie on different disks.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins import TorchCheckpointIO

from ardiffusion.files import atomic_write, write_failure
from ardiffusion.weights.tensor_files import check_intact


@contextmanager
def restoring(trainer: Trainer) -> Iterator[None]:
    """Take what breaks while Lightning restores a checkpoint for the fault of the checkpoint."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        steps = [step.name.lstrip("_") for step in extract_tb(error.__traceback__)]
        if not any(step.startswith(("restore", "resume_start")) for step in steps):
            raise
        if isinstance(error, KeyError) and steps[-1] == "restore_optimizers_and_schedulers":
            raise ValueError(
                f"{trainer.ckpt_path} holds weights alone, and a run goes on with its optimiser's "
                f"state, too: give --model.start {trainer.ckpt_path} instead of --ckpt_path."
            ) from error
        raise ValueError(
            f"{trainer.ckpt_path} is not what `fit` writes ({error!r}): check --ckpt_path."
        ) from error


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name next to its own and moves it into place.

    What is loaded is compared with the checksums in it first.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with atomic_write(path) as partial, open(partial, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except RuntimeError as error:  # torch's, about an error of the system
            raise write_failure(Path(path), error) from error

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:  # noqa: ANN401
        if Path(path).is_file():
            check_intact(path)
        return super().load_checkpoint(path, *args, **options)
