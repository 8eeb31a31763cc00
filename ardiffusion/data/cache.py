"""The shards of a latent cache, safetensors files beside its index.

A shard holds `latents` (N, F, L, C) and says in its header whose they are, with a hash over all of
it. A shard that is there is whole, so that a killed run resumes after its last one.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypedDict

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ardiffusion.data.cache_index import Index, Origin, are_clips, keys_of, read_index
from ardiffusion.files import has_type, write_tensors


class Header(TypedDict):
    """What a shard says of itself."""

    origin: Origin
    keys: list[str]  # "path:start" of each clip
    stamps: dict[str, str]  # of the videos when they were encoded, by path


class Shard(NamedTuple):
    """A whole shard: its file, what it says of itself, and the hash over all of it."""

    file: Path
    header: Header
    hash: str


def _hash(header: str, latents: Tensor) -> str:
    digest = hashlib.sha256(header.encode())
    digest.update(latents.numpy().data)
    return digest.hexdigest()


def write_shard(file: Path, header: Header, latents: Tensor) -> Shard:
    text = json.dumps(header)
    shard = Shard(file, header, _hash(text, latents))
    write_tensors(file, {"latents": latents}, {"header": text, "hash": shard.hash})
    return shard


def read_shard(file: Path) -> Shard:
    """Read what a shard says of itself, and check that it is as it was written."""
    try:
        with safe_open(file, framework="pt") as stored:
            notes, latents = stored.metadata() or {}, stored.get_tensor("latents")
        header = json.loads(notes["header"])
        if not has_type(header, Header) or not are_clips(header["keys"]):
            raise ValueError("its header is not what was written")
        sizes = (len(header["keys"]), header["origin"]["frames"])
        if latents.shape[:2] != sizes or _hash(notes["header"], latents) != notes["hash"]:
            raise ValueError("its content is not what was written")
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"Shard {file} of the latent cache is missing or broken ({error}): delete it and "
            "resume `ardiff-vae predict`."
        ) from error
    return Shard(file, header, notes["hash"])


def read_shards(path: str | Path, names: Iterable[str] | None = None) -> list[Shard]:
    """Read and check shards, all if they are not named; a gigabyte takes a core a second."""
    found = [p.name for p in Path(path).glob("*.safetensors")] if names is None else names
    with ThreadPoolExecutor() as pool:
        return list(pool.map(read_shard, [Path(path) / name for name in sorted(found)]))


def read_finished(path: str | Path) -> Index:
    """Read the index of a finished cache and refuse any other."""
    index = read_index(path)
    if not index["complete"]:
        clips = sum(len(shard.header["keys"]) for shard in read_shards(path))
        raise ValueError(
            f"Latent cache {path} is half written ({clips} clips so far): run the same "
            "`ardiff-vae predict` again to finish it."
        )
    return index


def open_cache(path: str | Path) -> Index:
    """Read the index of a finished cache, and compare all shards with it."""
    index = read_finished(path)
    for shard in read_shards(path, index["shards"]):
        name = shard.file.name
        keys = keys_of(index["shards"][name], index["paths"])
        if (shard.hash, shard.header["keys"]) != (index["hashes"][name], keys):
            raise ValueError(
                f"Shard {name} of latent cache {path} is not the one its index describes: run "
                "the same `ardiff-vae predict` again."
            )
    return index
