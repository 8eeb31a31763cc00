"""A latent cache: shards, safetensors files beside its index, as they are written and read.

A shard holds `latents` (N, F, L, C) and says in its header whose they are, with a hash over all of
it. A shard that is there is whole, so that a killed run resumes after its last one.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ardiffusion.data.cache_index import (
    INDEX,
    Index,
    Origin,
    are_clips,
    keys_of,
    path_of,
    place_clips,
    read_index,
    stamps_of,
    write_index,
)
from ardiffusion.files import has_type, write_tensors

logger = logging.getLogger(__name__)


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


def check_origin(path: str | Path, theirs: Origin, ours: Origin) -> None:
    """Refuse to add to latents of another origin."""
    for name, value in ours.items():
        if theirs[name] != value:
            raise ValueError(
                f"Latent cache {path} was written with {name} {theirs[name]} and not {value}: "
                "choose another output folder or delete this one."
            )


def keep_current(path: str | Path, index: Index) -> list[Shard]:
    """Read all shards, and drop clips of videos that changed and clips that are there twice."""
    shards, now = read_shards(path), stamps_of(index)
    for shard in shards:
        check_origin(path, shard.header["origin"], ours=index["origin"])
    kept, known, stale = list[Shard](), set[str](), 0
    for shard in shards:
        keys, then = shard.header["keys"], shard.header["stamps"]
        current = [key for key in keys if now.get(path_of(key)) in (None, then.get(path_of(key)))]
        stale += len(keys) - len(current)
        wanted = set(current) - known
        known |= wanted
        if wanted:
            kept.append(shard if len(wanted) == len(keys) else shrink(shard, wanted))
        else:
            shard.file.unlink()
    if stale:
        logger.warning("Dropped %d clips of %s, whose videos changed since.", stale, path)
    return kept


def shrink(shard: Shard, wanted: set[str]) -> Shard:
    """Write a shard anew with some of its clips alone."""
    keys = shard.header["keys"]
    places = [i for i, key in enumerate(keys) if key in wanted]
    header: Header = {**shard.header, "keys": [keys[i] for i in places]}
    return write_shard(shard.file, header, load_file(shard.file)["latents"][places])


def begin_cache(path: str | Path, index: Index) -> set[str]:
    """Start a cache, or resume one of the same origin; latents of changed videos are dropped.

    Returns:
        Keys of the clips that need no encoding any more.
    """
    missing: list[str] = []
    if (Path(path) / INDEX).exists():
        there = read_index(path)
        check_origin(path, there["origin"], ours=index["origin"])
        now, then = stamps_of(index), stamps_of(there)
        keys = keys_of(there["missing"], there["paths"])
        missing = [key for key in keys if now.get(path_of(key)) == then.get(path_of(key))]
    done = (shard.header["keys"] for shard in keep_current(path, index))
    return {*missing, *chain.from_iterable(done)}


def finish_cache(path: str | Path, index: Index, expected: Iterable[str]) -> Index:
    """Note all shards and what is missing in the index, and mark it complete."""
    shards = keep_current(path, index)
    keys = {shard.file.name: shard.header["keys"] for shard in shards}
    missing = sorted(set(expected).difference(*keys.values()))
    hashes = {shard.file.name: shard.hash for shard in shards}
    finished = place_clips({**index, "complete": True, "hashes": hashes}, missing, keys)
    write_index(Path(path) / INDEX, finished)
    return finished


class ShardWriter:
    """Collect the clips of one process and write them in shards of so many."""

    def __init__(self, path: str | Path, index: Index, rank: int = 0, clips: int = 1024) -> None:
        self.path, self.index, self.rank, self.clips = Path(path), index, rank, clips
        self.stamps = stamps_of(index)
        self.number = 0
        self._latents: list[Tensor] = []
        self._keys: list[str] = []

    def write(self, latents: Tensor, keys: Sequence[str]) -> None:
        """Add clips, latents (B, F, L, C) with one key each."""
        latents = latents.detach().float().cpu()
        for key, clip in zip(keys, latents, strict=True):
            if not clip.isfinite().all():
                raise ValueError(
                    f"The latents of {key} are not finite: the weights of the AR-VAE are broken, "
                    "or --trainer.precision is too low for them."
                )
        self._latents.append(latents)
        self._keys += keys
        if len(self._keys) >= self.clips:
            self.flush()

    def flush(self) -> None:
        """Write what was collected as one shard."""
        if not self._keys:
            return
        while (file := self.path / f"{self.rank:03d}-{self.number:06d}.safetensors").exists():
            self.number += 1
        stamps = {path: self.stamps[path] for path in map(path_of, self._keys)}
        header: Header = {"origin": self.index["origin"], "keys": self._keys, "stamps": stamps}
        write_shard(file, header, torch.cat(self._latents))
        self._latents, self._keys = [], []
