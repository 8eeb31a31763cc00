"""Features of clips kept on disk, so that none is computed twice.

A folder holds one safetensors file per chunk of clips, with `features` (N, d) in float32 and, in
its header, the clips' keys and a hash of all that is in it. It is named by a hash of the keys and
moved into place when it is whole, so that runs may be cut short, extended, and share their files.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ardiffusion.files import write_tensors


class Chunk(NamedTuple):
    """What clips have become, one a row; the largest value of their pixels, height and width."""

    rows: Tensor
    highest: int
    size: tuple[int, int]


class FeatureStore:
    """Features of the clips of one folder of videos, prepared and described in one way.

    `identity` is everything besides the clips that features depend on.
    """

    def __init__(self, cache: str | Path, name: str, identity: dict[str, Any]) -> None:
        self.folder = Path(cache) / f"{name}-{hash_json(identity)}"
        self.identity = identity

    def load(self, keys: Sequence[str]) -> Chunk | None:
        """Return what is kept of some clips, or None; a broken file counts as none."""
        try:
            with safe_open(self.file(keys), framework="pt") as file:
                header, features = file.metadata() or {}, file.get_tensor("features")
            height, width = json.loads(header["size"])
            chunk = Chunk(features, highest=int(header["highest"]), size=(height, width))
            return chunk if header == self.header(keys, chunk) else None
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None

    def save(self, keys: Sequence[str], chunk: Chunk) -> None:
        try:
            write_tensors(
                self.file(keys), {"features": chunk.rows}, notes=self.header(keys, chunk)
            )
        except OSError as error:
            raise OSError(
                f"{error} Features are kept in --cache, {self.folder.parent}."
            ) from error

    def header(self, keys: Sequence[str], chunk: Chunk) -> dict[str, str]:
        """Describe a chunk; the hash is of its features and of the rest of this."""
        header = {
            "keys": json.dumps(list(keys)),
            "highest": str(chunk.highest),
            "size": json.dumps(chunk.size),
            "identity": json.dumps(self.identity, sort_keys=True),
        }
        content = hashlib.sha256(chunk.rows.contiguous().numpy().tobytes())
        content.update(json.dumps(header).encode())
        return header | {"hash": content.hexdigest()}

    def file(self, keys: Sequence[str]) -> Path:
        return self.folder / f"{hash_json(list(keys))}.safetensors"


def hash_json(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]
