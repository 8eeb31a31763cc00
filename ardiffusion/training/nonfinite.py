"""Keeps batches whose loss or gradient is not finite, so that one can find out why."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ardiffusion.files import atomic_write


def save_batch(
    folder: Path, name: str, batch: Mapping[str, Any], outputs: Mapping[str, Any], step: int
) -> None:
    """Write NAME.safetensors, the batch's tensors with losses and t, and NAME.json about them.

    Args:
        folder: Where to; it is made if need be.
        name: Name of both files, without their ends.
        batch: The batch.
        outputs: What its training step returned.
        step: The optimiser step that was skipped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = {**batch, **outputs}
    tensors = {
        k: v.detach().cpu().contiguous() for k, v in values.items() if isinstance(v, Tensor)
    }
    note: dict[str, Any] = {"step": step, "key": list(batch.get("key", []))}
    if "t" in tensors:
        note["t"] = tensors["t"].tolist()
    with atomic_write(folder / f"{name}.safetensors") as partial:
        save_file(tensors, partial)
    with atomic_write(folder / f"{name}.json") as partial:
        partial.write_text(json.dumps(note) + "\n", encoding="utf-8")
