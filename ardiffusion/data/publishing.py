"""Writing a finished latent cache to object storage, in chunks of LitData."""

import asyncio
import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path

from huggingface_hub import HfApi
from rich.console import Console
from rich.progress import track

from ardiffusion.data.cache_index import INDEX, Clips, Columns, write_columns
from ardiffusion.data.chunks import CATALOG, LISTING, downloader, file_hash, litdata
from ardiffusion.data.latents import LatentCache
from ardiffusion.files import append_json_lines, cache_folder, read_json_lines, write_json

CHUNK = 2**24  # bytes; one is fetched for the first of its clips that is needed
LOG = "published.jsonl"
logger = logging.getLogger(__name__)


def staging_folder(url: str) -> Path:
    """Name the folder in which latents are gathered that are to go to an address."""
    return cache_folder() / "latents" / hashlib.sha256(url.encode()).hexdigest()[:16]


def publish(folder: Path, url: str) -> None:
    """Write a latent cache to an address; what is there already is not written again.

    Args:
        folder: The cache, which stays, with a note of what was written.
        url: Where to, s3://bucket/folder, hf://datasets/user/repo/folder, local:/folder, or
            another address that LitData can write to.
    """
    source = file_hash(folder / INDEX)
    done = {line.get("file"): line.get("hash") for line in read_json_lines(folder / LOG)}
    if done.get(LISTING) == source:
        return
    chunks = folder / "chunks"
    shutil.rmtree(chunks, ignore_errors=True)  # of a run that was killed
    index = write_chunks(LatentCache(folder), chunks)
    try:
        if url.startswith("hf://"):
            send_to_hub(chunks, url)
        else:
            hashes = [*index["hashes"].items(), (CATALOG, file_hash(chunks / CATALOG))]
            left = [(name, digest) for name, digest in hashes if done.get(name) != digest]
            append_json_lines(folder / LOG, [{"file": LISTING, "hash": None}])
            for name, digest in track(left, f"Writing {url}", console=Console(stderr=True)):
                send(chunks / name, f"{url}/{name}")
                append_json_lines(folder / LOG, [{"file": name, "hash": digest}])
            send(chunks / LISTING, f"{url}/{LISTING}")  # from now on they are those to be read
    except Exception as error:  # each storage has its own
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise OSError(
            f"Cannot write {url} ({reason}): check the address, the network and your credentials, "
            "then run the same command again, which encodes nothing anew."
        ) from error
    append_json_lines(folder / LOG, [{"file": LISTING, "hash": source}])
    shutil.rmtree(chunks)
    clips = sum(len(clips["starts"]) for clips in index["shards"].values())
    logger.info("Wrote %d clips to %s.", clips, url)


def write_chunks(cache: LatentCache, folder: Path) -> Columns:
    """Write the clips of a cache to chunks, those of a video one after the other."""
    folder.mkdir(parents=True)
    writer = litdata("writer").BinaryWriter(str(folder), chunk_bytes=CHUNK)
    paths, labels = cache.index["paths"], cache.index["labels"]
    for number, (video, start, latents) in enumerate(cache.every_clip()):
        key, label = f"{paths[video]}:{start}", max(labels[video], -1)
        writer[number] = {"latents": latents, "key": key, "label": label}
    writer.done()
    (own,) = folder.glob("*.index.json")  # of this one writer
    listing = json.loads(own.read_text(encoding="utf-8"))
    own.unlink()
    shards: dict[str, Clips] = {}
    videos, starts = (cache.clips[name].tolist() for name in ("video", "start"))
    for chunk in listing["chunks"]:
        count = chunk["chunk_size"]
        shards[chunk["filename"]] = {"videos": videos[:count], "starts": starts[:count]}
        videos, starts = videos[count:], starts[count:]
    hashes = {name: file_hash(folder / name) for name in shards}
    index: Columns = {**cache.index, "shards": shards, "hashes": hashes}
    write_columns(folder / CATALOG, index)
    write_json(folder / LISTING, {**listing, "ardiffusion": file_hash(folder / CATALOG)})
    return index


def send(file: Path, target: str) -> None:
    """Write a file to an address."""
    if target.startswith("local:"):
        place = Path(target.removeprefix("local:"))
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name}.tmp")
        shutil.copyfile(file, partial)
        os.replace(partial, place)
    else:
        address, _, _ = target.rpartition("/")
        source = downloader(address, os.getpid())
        asyncio.run(source.aupload_file(str(file), target))


def send_to_hub(folder: Path, url: str) -> None:
    """Write a folder into a repository of data sets; files that are there are not sent again."""
    match = re.fullmatch(r"hf://datasets/([^/@]+/[^/@]+)/?([^@]*)", url)
    if match is None:
        raise ValueError("the address is to be hf://datasets/user/repo/folder")
    hub = HfApi()
    hub.create_repo(match[1], repo_type="dataset", exist_ok=True)
    hub.upload_folder(
        folder_path=folder,
        repo_id=match[1],
        path_in_repo=match[2] or None,
        repo_type="dataset",
        delete_patterns="chunk-*",
    )
