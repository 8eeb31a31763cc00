"""The latent cache on disk: safetensors shards and one `index.json`.

A shard holds `latents` (N, F, L, C) and, in its header, the N keys "path:start". It is written
under a temporary name and moved, so that a shard that is there is whole and a killed run resumes
after its last one. The index says what was encoded, by which AR-VAE, and whether that is finished.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ardiffusion.data.catalog import Catalog

INDEX = "index.json"


class Origin(TypedDict):
    """Where latents come from: a cache holds latents of one origin only."""

    fingerprint: str
    resolution: int
    frames: int
    stride: int


class Index(Catalog):
    """What `index.json` holds."""

    origin: Origin
    complete: bool
    missing: list[str]  # keys of clips that could not be read
    shards: dict[str, list[str]]  # keys by name of the shard, once complete


def read_index(path: str | Path) -> Index:
    file = Path(path) / INDEX
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} holds no latent cache ({INDEX} is missing): write one with "
            "`ardiff-vae predict`."
        ) from None
    except ValueError as error:
        raise ValueError(
            f"{file} is broken: delete it and resume `ardiff-vae predict`."
        ) from error


def write_index(path: str | Path, index: Index) -> None:
    file = Path(path) / INDEX
    partial = file.with_name(f".{INDEX}.{os.getpid()}.tmp")
    partial.write_text(json.dumps(index), encoding="utf-8")
    os.replace(partial, file)


def shard_keys(shard: Path) -> list[str]:
    """Read the keys of a shard and check that it is whole."""
    try:
        with safe_open(shard, framework="pt") as file:
            keys = json.loads((file.metadata() or {})["keys"])
            rows = file.get_slice("latents").get_shape()[0]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"Shard {shard} of the latent cache is missing or broken: delete it and resume "
            "`ardiff-vae predict`."
        ) from error
    if rows != len(keys):
        raise ValueError(
            f"Shard {shard} of the latent cache holds {rows} clips and names {len(keys)}: delete "
            "it and resume `ardiff-vae predict`."
        )
    return keys


def read_shards(path: str | Path) -> dict[str, list[str]]:
    """Read the keys of all shards that are there."""
    return {shard.name: shard_keys(shard) for shard in sorted(Path(path).glob("*.safetensors"))}


def open_cache(path: str | Path) -> Index:
    """Read the index of a finished cache and refuse any other."""
    index = read_index(path)
    if not index["complete"]:
        clips = sum(map(len, read_shards(path).values()))
        raise ValueError(
            f"Latent cache {path} is half written ({clips} clips so far): run the same "
            "`ardiff-vae predict` again to finish it."
        )
    for shard, keys in index["shards"].items():
        if shard_keys(Path(path) / shard) != keys:
            raise ValueError(
                f"Shard {shard} of latent cache {path} is not the one its index describes: run "
                "the same `ardiff-vae predict` again."
            )
    return index


def begin_cache(path: str | Path, index: Index) -> set[str]:
    """Start a cache, or resume one of the same origin.

    Returns:
        Keys of the clips that need no encoding any more.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    missing: list[str] = []
    if (path / INDEX).exists():
        there = read_index(path)
        for name, value in index["origin"].items():
            if there["origin"].get(name) != value:
                raise ValueError(
                    f"Latent cache {path} was written with {name} {there['origin'].get(name)} and "
                    f"not {value}: choose another output folder or delete this one."
                )
        missing = there["missing"]
    done = {key for keys in read_shards(path).values() for key in keys}
    return done.union(missing)


def finish_cache(path: str | Path, index: Index, expected: Iterable[str]) -> Index:
    """Note all shards and what is missing in the index, and mark it complete."""
    shards = read_shards(path)
    done = {key for keys in shards.values() for key in keys}
    missing = sorted(set(expected) - done)
    finished: Index = {**index, "complete": True, "missing": missing, "shards": shards}
    write_index(path, finished)
    return finished


class ShardWriter:
    """Collect the clips of one process and write them shard by shard.

    Args:
        path: Folder of the cache.
        rank: Number of the process, part of the shards' names.
        clips: Clips per shard.
    """

    def __init__(self, path: str | Path, rank: int = 0, clips: int = 1024) -> None:
        self.path, self.rank, self.clips = Path(path), rank, clips
        self.number = 0
        self._latents: list[Tensor] = []
        self._keys: list[str] = []

    def write(self, latents: Tensor, keys: Sequence[str]) -> None:
        """Add clips, latents (B, F, L, C) with one key each."""
        self._latents.append(latents.detach().float().cpu())
        self._keys += keys
        if len(self._keys) >= self.clips:
            self.flush()

    def flush(self) -> None:
        """Write what was collected as one shard."""
        if not self._keys:
            return
        while (file := self.path / f"{self.rank:03d}-{self.number:06d}.safetensors").exists():
            self.number += 1
        partial = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        save_file(
            {"latents": torch.cat(self._latents).contiguous()},
            partial,
            metadata={"keys": json.dumps(self._keys)},
        )
        os.replace(partial, file)
        self._latents, self._keys = [], []
