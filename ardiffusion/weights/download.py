"""Files of Hugging Face Hub repositories: into the Hub's own cache, resumable, hash-checked.

The cache is laid out as huggingface_hub's, which then serves the file; the transfer is ours
because huggingface_hub neither resumes an interrupted run's download nor checks the hash.
"""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock
from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
)
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status
from rich import filesize
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ardiffusion.weights.hub_errors import TRANSPORT_ERRORS, readable_hub_errors

ATTEMPTS = 5  # in a row without a byte received
PAUSE = 1.0  # seconds between them


@dataclass(frozen=True)
class HubPath:
    """A place on the Hub, written hf://user/repo[/path][@revision].

    Attributes:
        repo: The repository, user/repo.
        path: File or folder in it; empty for the repository itself.
        revision: Branch, tag or commit.
    """

    repo: str
    path: str = ""
    revision: str = "main"

    def __str__(self) -> str:
        path = f"/{self.path}" if self.path else ""
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"hf://{self.repo}{path}{revision}"

    def __truediv__(self, name: str) -> "HubPath":
        return replace(self, path=f"{self.path}/{name}".strip("/"))

    def at(self, revision: str) -> "HubPath":
        """Return the same place at another revision."""
        return replace(self, revision=revision)


def parse_hub_path(source: str) -> HubPath:
    """Read hf://user/repo[/path][@revision]."""
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)((?:/[^@/]+)*)/?(?:@(.+))?", source)
    if match is None:
        raise ValueError(f"{source} is not of the form hf://user/repo[/path][@revision].")
    repo, path, revision = match.groups()
    return HubPath(repo=repo, path=path.strip("/"), revision=revision or "main")


def fetch(file: HubPath) -> tuple[Path, str]:
    """Bring a file into the cache unless it is there.

    Returns:
        Its path in the cache and the commit it belongs to.

    Raises:
        ConnectionError: If the Hub cannot be reached, refuses, or the connection breaks.
        FileNotFoundError: If there is no such file, or it is not in the cache and we are offline.
        ValueError: If something else than the file arrived.
    """
    with readable_hub_errors(file):
        info = hf_hub_download(file.repo, file.path, revision=file.revision, dry_run=True)
        if os.path.exists(info.local_path):
            return Path(info.local_path), info.commit_hash
        url = hf_hub_url(file.repo, file.path, revision=info.commit_hash)
        metadata = get_hf_file_metadata(url)
        assert metadata.etag is not None
        folder = repo_folder_name(repo_id=file.repo, repo_type="model")
        blob = Path(constants.HF_HUB_CACHE, folder, "blobs", metadata.etag)
        blob.parent.mkdir(parents=True, exist_ok=True)
        lock = Path(constants.HF_HUB_CACHE, ".locks", folder, f"{blob.name}.download.lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):  # of many processes one downloads, the others wait
            if not blob.exists():
                download(file, url=url, blob=blob, size=metadata.size)
        path = hf_hub_download(file.repo, file.path, revision=file.revision)
        return Path(path), info.commit_hash


def list_files(folder: HubPath) -> tuple[str, list[str]]:
    """List the files in and below a folder; where the Hub is out of reach, those in the cache.

    Returns:
        The commit that the revision stands for, and the files' paths in the repository.
    """
    inside = f"{folder.path}/" if folder.path else ""
    try:
        with readable_hub_errors(folder):
            info = HfApi().model_info(folder.repo, revision=folder.revision)
        commit, names = info.sha, [file.rfilename for file in info.siblings or []]
        assert commit is not None
        note_revision(folder, commit=commit)
    except (ConnectionError, FileNotFoundError):
        snapshot = cached_snapshot(folder)
        if snapshot is None:
            raise
        paths = [path for path in snapshot.rglob("*") if path.is_file()]
        commit, names = snapshot.name, [p.relative_to(snapshot).as_posix() for p in paths]
    return commit, sorted(name for name in names if name.startswith(inside))


def note_revision(folder: HubPath, commit: str) -> None:
    """Note in the cache which commit a revision stands for, as huggingface_hub does."""
    if folder.revision == commit:
        return
    root = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=folder.repo, repo_type="model"))
    ref = root / "refs" / folder.revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    partial = ref.with_name(f".{ref.name}.{os.getpid()}")
    partial.write_text(commit)
    os.replace(partial, ref)


def cached_snapshot(folder: HubPath) -> Path | None:
    """Return where the cache keeps the files of a revision, if it has any of them."""
    root = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=folder.repo, repo_type="model"))
    ref = root / "refs" / folder.revision
    snapshot = root / "snapshots" / (ref.read_text() if ref.is_file() else folder.revision)
    return snapshot if snapshot.is_dir() else None


def download(file: HubPath, url: str, blob: Path, size: int | None) -> None:
    """Download to a partial file beside the blob, whose name is its hash, and move it there."""
    partial = blob.with_name(f"{blob.name}.partial")
    console = Console(stderr=True)
    amount = "" if size is None else f" ({filesize.decimal(size)})"
    console.print(f"Downloading {file}{amount} to {blob.parent.parent}", soft_wrap=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=size)
        for done in persist(file, url=url, partial=partial, size=size):
            progress.update(task, completed=done)
    check(file, partial=partial, etag=blob.name, size=size)
    os.replace(partial, blob)


def persist(file: HubPath, url: str, partial: Path, size: int | None) -> Iterator[int]:
    """Receive until the file is whole, taking up again where the connection broke."""
    failures = 0
    while True:
        before = size_of(partial)
        try:
            yield from receive(url, partial=partial, size=size)
            return
        except TRANSPORT_ERRORS as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise
            done = size_of(partial)
            failures = 1 if done > before else failures + 1
            if failures > ATTEMPTS:
                raise ConnectionError(
                    f"The download of {file} broke off after {done} of {size} bytes "
                    f"({type(error).__name__}); run again to resume it."
                ) from error
            time.sleep(PAUSE)


def receive(url: str, partial: Path, size: int | None) -> Iterator[int]:
    """Append what is missing of a partial file, yielding its size as it grows."""
    done = size_of(partial)
    if size is not None and done >= size:
        return
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if done > 0:
        headers["Range"] = f"bytes={done}-"
    with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
        hf_raise_for_status(response)
        resumed = response.status_code == 206
        done = done if resumed else 0
        with open(partial, "ab" if resumed else "wb") as out:
            for chunk in response.iter_raw():
                out.write(chunk)
                done += len(chunk)
                yield done


def size_of(path: Path) -> int:
    """Return a file's size, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def check(file: HubPath, partial: Path, etag: str, size: int | None) -> None:
    """Discard a file that has not the promised size and hash, SHA-256 or git's SHA-1."""
    found = partial.stat().st_size
    with open(partial, "rb") as content:
        if len(etag) == 64:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        elif len(etag) == 40:
            sha1 = hashlib.sha1(b"blob %d\0" % found, usedforsecurity=False)
            sha1.update(content.read())
            digest = sha1.hexdigest()
        else:
            digest = etag
    if digest != etag or (size is not None and found != size):
        partial.unlink()
        raise ValueError(
            f"{file} arrived with {found} bytes and hash {digest} instead of {size} bytes and "
            f"hash {etag}; it was discarded: run again."
        )
