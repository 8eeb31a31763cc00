"""Places in object storage, and moving files from and to them with LitData's clients."""

import asyncio
import functools
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from ardiffusion.files import atomic_write, cache_folder


def is_remote(place: str | Path | None) -> bool:
    """Say whether a place is in object storage, or to be treated so (local:/folder)."""
    return isinstance(place, str) and bool(re.match(r"local:|[a-z][a-z0-9]+://", place))


def locate(place: str) -> str | Path:
    """Return an address as it is, and a folder as a path."""
    return place.rstrip("/") if is_remote(place) else Path(place).expanduser()


def below(place: str | Path, part: str) -> str | Path:
    """Name a part of a place, or the place itself."""
    return place / part if isinstance(place, Path) else f"{place}/{part}".rstrip("/")


def litdata(module: str) -> Any:  # noqa: ANN401
    """Import a module of LitData, which only streams need."""
    try:
        return import_module(f"litdata.streaming.{module}")
    except ImportError as error:
        raise ValueError(
            "What is in object storage needs the package litdata; install it by: "
            "pip install 'ardiffusion[stream]'."
        ) from error


@functools.cache
def downloader(url: str, process: int) -> Any:  # noqa: ANN401
    """Return what fetches files; no connection outlives a fork."""
    module = litdata("downloader")
    if options := getattr(module, "_OBSTORE_CLIENT_OPTIONS", None):
        options["allow_http"] = "true"  # LitData forbids what AWS_ENDPOINT_URL=http://... asks for
    return module.get_downloader(url, "", [])


@contextmanager
def storage_errors(action: str, then: str = "") -> Iterator[None]:
    """Turn whatever a storage raises, each its own, into a sentence."""
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise OSError(
            f"Cannot {action} ({reason}): check the address, the network and your "
            f"credentials{then}."
        ) from error


def fetch(url: str, name: str, folder: Path) -> None:
    """Fetch a file whole, or return at once if another process of this machine is at it."""
    source = downloader(url, os.getpid())
    with storage_errors(f"read {url}/{name}"):
        source.download_file(f"{url}/{name}", str(folder / name))


def streams_folder(cache: str | Path | None) -> Path:
    """Name the folder for what is fetched."""
    return Path(cache or cache_folder()).expanduser() / "streams"


def send(file: Path, target: str) -> None:
    """Write a file to an address."""
    if target.startswith("local:"):
        with atomic_write(target.removeprefix("local:")) as partial:
            shutil.copyfile(file, partial)
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
