"""Writing latents and videos to object storage, in chunks of LitData."""

import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track

from ardiffusion.data.cache_index import INDEX, Clips, Index, write_index
from ardiffusion.data.chunks import LATENTS, LISTING, VIDEOS, Kind, file_hash
from ardiffusion.data.index import index_clips
from ardiffusion.data.latents import LatentCache
from ardiffusion.data.layouts import find_clips
from ardiffusion.data.splits import draw_order
from ardiffusion.data.storage import litdata, send, send_to_hub, storage_errors
from ardiffusion.data.video_chunks import describe_videos, video_item
from ardiffusion.files import (
    append_json_lines,
    cache_folder,
    only_writer,
    read_json_lines,
    write_json,
)

CHUNK = 2**24  # bytes; one is fetched for the first of its items that is needed
LOG = "published.jsonl"
logger = logging.getLogger(__name__)


class Content(NamedTuple):
    """What is to be written: items, whose clips they are, and what else is known of those."""

    kind: Kind
    items: Iterable[dict[str, Any]]
    clips: Clips
    known: Index


def staging_folder(url: str) -> Path:
    """Name the folder for latents, and for chunks, that are to go to an address."""
    return cache_folder() / "latents" / hashlib.sha256(url.encode()).hexdigest()[:16]


def publish(folder: Path, url: str) -> None:
    """Write a latent cache, which stays as it is, to an address."""

    def content() -> Content:
        cache = LatentCache(folder)
        paths, labels = cache.index["paths"], cache.index["labels"]
        items = (
            {
                "latents": latents,
                "key": f"{paths[video]}:{start}",
                "label": max(labels[video], -1),
            }
            for video, start, latents in cache.every_clip()
        )
        videos, starts = (cache.clips[name].tolist() for name in ("video", "start"))
        return Content(LATENTS, items, {"videos": videos, "starts": starts}, cache.index)

    write_content(folder, url, file_hash(folder / INDEX), content)


def publish_videos(
    root: Path, url: str, max_broken: float = 0.05, cache: str | None = None
) -> Index:
    """Write the videos of a folder to an address as they are, and return what is known of them.

    Their order is drawn, so that a chunk holds videos of all classes; the first ones are those
    that a fraction takes out of training unless another seed is given.
    """
    entries = find_clips(root, option="FOLDER")
    paths = [entry.path for entry in entries]
    counts = index_clips(root, paths, cache=cache)
    known = describe_videos(root, entries, counts, max_broken)
    order = [number for number in draw_order(paths, seed=0).tolist() if known["lengths"][number]]
    items = (video_item(root, entries[number], cache) for number in order)
    clips: Clips = {"videos": order, "starts": [0] * len(order)}
    source = hashlib.sha256(json.dumps(known).encode()).hexdigest()
    folder = staging_folder(url)
    with only_writer(folder):
        write_content(folder, url, source, lambda: Content(VIDEOS, items, clips, known))
    return known


def write_content(folder: Path, url: str, source: str, content: Callable[[], Content]) -> None:
    """Write chunks to an address; those that are there already are not written again.

    Args:
        folder: Where a note is kept of what was written, and a chunk lies until it is.
        url: Where to, s3://bucket/folder, hf://datasets/user/repo/folder, local:/folder, or
            another address that LitData can write to.
        source: What changes with the content.
        content: Makes it.
    """
    log, chunks, hub = folder / LOG, folder / "chunks", url.startswith("hf://")
    done = {line.get("file"): line.get("hash") for line in read_json_lines(log)}
    if done.get(LISTING) == source:
        return
    shutil.rmtree(chunks, ignore_errors=True)  # of a run that was killed
    chunks.mkdir(parents=True)
    append_json_lines(log, [{"file": LISTING, "hash": None}])
    writing = (f"write {url}", ", then run the same command again, which goes on from there")

    def ship(file: Path) -> str:
        digest = file_hash(file)
        if hub:  # whose files go together
            return digest
        if done.get(file.name) != digest:
            with storage_errors(*writing):
                send(file, f"{url}/{file.name}")
            append_json_lines(log, [{"file": file.name, "hash": digest}])
        file.unlink()
        return digest

    made = content()
    write_chunks(made, chunks, ship, title=f"Writing {url}")
    if hub:
        with storage_errors(*writing):
            send_to_hub(chunks, url)
    else:
        ship(chunks / made.kind.catalog)
        ship(chunks / LISTING)  # from now on they are those to be read
    append_json_lines(log, [{"file": LISTING, "hash": source}])
    shutil.rmtree(chunks)
    logger.info("Wrote %d %s to %s.", len(made.clips["starts"]), made.kind.name, url)


def write_chunks(content: Content, folder: Path, ship: Callable[[Path], str], title: str) -> None:
    """Write items to chunks, which are shipped when they are whole, and what lists them."""
    writer = litdata("writer").BinaryWriter(str(folder), chunk_bytes=CHUNK)
    videos, starts = content.clips["videos"], content.clips["starts"]
    hashes: dict[str, str] = {}
    items = track(content.items, title, total=len(videos), console=Console(stderr=True))
    with warnings.catch_warnings():  # a long video has a chunk of its own
        warnings.filterwarnings("ignore", message="An item was larger than the target chunk")
        for number, item in enumerate(items):
            if file := writer.add_item(number, item):
                hashes[Path(file).name] = ship(Path(file))
        hashes |= {Path(file).name: ship(Path(file)) for file in writer.done()}
    (own,) = folder.glob("*.index.json")  # of this one writer
    listing = json.loads(own.read_text(encoding="utf-8"))
    own.unlink()
    shards: dict[str, Clips] = {}
    for chunk in listing["chunks"]:
        count = chunk["chunk_size"]
        shards[chunk["filename"]] = {"videos": videos[:count], "starts": starts[:count]}
        videos, starts = videos[count:], starts[count:]
    catalog = folder / content.kind.catalog
    write_index(catalog, {**content.known, "shards": shards, "hashes": hashes})
    own_part = {"ardiffusion": file_hash(catalog), "holds": content.kind.name}
    write_json(folder / LISTING, {**listing, **own_part})
