"""The latent cache on disk: safetensors shards and one `index.json`.

A shard holds `latents` (N, F, L, C) and says in its header whose they are, with a hash over all of
it. A shard that is there is whole, so that a killed run resumes after its last one. The index says
what was encoded, by which AR-VAE, and whether that is finished.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypedDict, TypeGuard, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ardiffusion.data.catalog import Catalog
from ardiffusion.data.samples import is_inside
from ardiffusion.data.splits import NAMES
from ardiffusion.files import has_type, read_text, write_tensors

INDEX = "index.json"
KEY = re.compile(r".+:[0-9]{1,18}", flags=re.DOTALL)


class Origin(TypedDict):
    """Where latents come from: a cache holds latents of one origin only."""

    fingerprint: str
    resolution: int
    frames: int
    stride: int


class Header(TypedDict):
    """What a shard says of itself."""

    origin: Origin
    keys: list[str]  # "path:start" of each clip
    stamps: dict[str, str]  # of the videos when they were encoded, by path


class Index(Catalog):
    """What `index.json` holds."""

    origin: Origin
    complete: bool
    stamps: dict[str, str]  # of the videos when they were encoded, by path
    missing: list[str]  # keys of clips that could not be read
    shards: dict[str, list[str]]  # keys by name of the shard, once complete
    hashes: dict[str, str]  # by name of the shard, once complete


class Shard(NamedTuple):
    """A whole shard: its file, what it says of itself, and the hash over all of it."""

    file: Path
    header: Header
    hash: str


def split_key(key: str) -> tuple[str, str]:
    """Return the video of a clip and where it starts there, nowhere if the key names no clip."""
    path, *start = key.rsplit(":", maxsplit=1)
    return path, "".join(start)


def path_of(key: str) -> str:
    """Return the video of a clip."""
    return split_key(key)[0]


def are_clips(keys: Sequence[str]) -> bool:
    """Say whether keys name clips, each once."""
    well = all(KEY.fullmatch(key) and is_inside(path_of(key)) for key in keys)
    return well and len(set(keys)) == len(keys)


def is_index(found: object) -> TypeGuard[Index]:
    """Say whether parsed JSON is an index, and one that can be true."""
    if not has_type(found, Index):
        return False
    index = cast(Index, found)
    splits, labels, shards = index["splits"], index["labels"], index["shards"]
    return (
        all(index["origin"][size] > 0 for size in ("resolution", "frames", "stride"))
        and all(is_inside(path) for path in labels)
        and all(-1 <= label < len(index["classes"]) for label in labels.values())
        and splits.keys() == set(NAMES)
        and labels.keys() >= {*index["lengths"], *chain(*splits.values())}
        and all(is_inside(shard) and "/" not in shard for shard in shards)
        and shards.keys() == index["hashes"].keys()
        and are_clips([*chain(*shards.values())])
    )


def read_index(path: str | Path, name: str = INDEX) -> Index:
    """Read what a cache says of itself, which is checked before anything trusts it."""
    file, found = Path(path) / name, None
    with suppress(ValueError, RecursionError):
        try:
            found = json.loads(read_text(file))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path} holds no latent cache ({name} is missing): write one with "
                "`ardiff-vae predict`."
            ) from None
    if not is_index(found):
        raise ValueError(
            f"{file} is broken: delete it and resume `ardiff-vae predict`; a cache of an older "
            "version is to be written anew."
        )
    return found


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


def open_cache(path: str | Path) -> Index:
    """Read the index of a finished cache and refuse any other."""
    index = read_index(path)
    if not index["complete"]:
        clips = sum(len(shard.header["keys"]) for shard in read_shards(path))
        raise ValueError(
            f"Latent cache {path} is half written ({clips} clips so far): run the same "
            "`ardiff-vae predict` again to finish it."
        )
    for shard in read_shards(path, index["shards"]):
        name = shard.file.name
        if (shard.hash, shard.header["keys"]) != (index["hashes"][name], index["shards"][name]):
            raise ValueError(
                f"Shard {name} of latent cache {path} is not the one its index describes: run "
                "the same `ardiff-vae predict` again."
            )
    return index
