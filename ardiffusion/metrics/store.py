"""Features of clips kept on disk, so that none is computed twice.

A folder holds one safetensors file per chunk of clips, with `features` (N, d) in float32 and, in
its header, the clips' keys. It is named by a hash of them, written aside and moved into place, so
that runs may be cut short, extended, and share their files.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class Chunk(NamedTuple):
    """Features (N, d) of some clips, the largest value of their pixels, their height and width."""

    features: Tensor
    highest: int
    size: tuple[int, int]


class FeatureStore:
    """Features of the clips of one folder of videos, prepared and described in one way.

    Args:
        cache: Folder of all stores.
        name: What to call this one.
        identity: Everything besides the clips that features depend on.
    """

    def __init__(self, cache: str | Path, name: str, identity: dict[str, Any]) -> None:
        self.folder = Path(cache) / f"{name}-{_hash(identity)}"
        self.identity = identity

    def load(self, keys: Sequence[str]) -> Chunk | None:
        """Return what is kept of some clips, or None; a broken file counts as none."""
        try:
            with safe_open(self._file(keys), framework="pt") as file:
                header = file.metadata() or {}
                features = file.get_tensor("features")
            height, width = json.loads(header["size"])
            if json.loads(header["keys"]) != list(keys) or len(features) != len(keys):
                return None
            return Chunk(features, highest=int(header["highest"]), size=(height, width))
        except (OSError, SafetensorError, KeyError, ValueError):
            return None

    def save(self, keys: Sequence[str], chunk: Chunk) -> None:
        """Keep the features of some clips."""
        file = self._file(keys)
        partial = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        header = {
            "keys": json.dumps(list(keys)),
            "highest": str(chunk.highest),
            "size": json.dumps(chunk.size),
            "identity": json.dumps(self.identity),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({"features": chunk.features.contiguous()}, partial, metadata=header)
            os.replace(partial, file)
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"Cannot keep features in {self.folder} ({error}): free some space or choose "
                "another --cache."
            ) from error
        finally:
            with suppress(OSError):
                partial.unlink()

    def _file(self, keys: Sequence[str]) -> Path:
        return self.folder / f"{_hash(list(keys))}.safetensors"


def _hash(thing: object) -> str:
    return hashlib.sha256(json.dumps(thing, sort_keys=True).encode()).hexdigest()[:20]
