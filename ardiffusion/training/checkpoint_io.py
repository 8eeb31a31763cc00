"""Writing of checkpoints, all or nothing: a full disk or a crash leaves the last one as it was.

Lightning's own way copies a finished file over the target when they lie on different disks.
"""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name next to its own and moves it into place."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any | None = None,  # noqa: ANN401 Lightning's signature
    ) -> None:
        """Write a checkpoint.

        Raises:
            OSError: If it cannot be written, with a sentence that names the file.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb") as file:
                torch.save(checkpoint, file)
                os.fsync(file.fileno())
            os.replace(partial, target)
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"Cannot write checkpoint {target} ({reason(error)}): free some space or choose "
                "another place, and resume from the last one."
            ) from error
        finally:
            partial.unlink(missing_ok=True)


def reason(error: BaseException) -> str:
    """Find the system's reason, which torch.save covers with an error of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__context__
    return str(error)
