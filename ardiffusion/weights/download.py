"""Files of Hugging Face Hub repositories, fetched by huggingface_hub and checked by their hash.

The real Hub serves Xet, chunk by chunk, where a download that was cut short goes on in the next
run. One over plain HTTP begins anew in a new process, and within one goes on where the connection
broke. huggingface_hub checks the size of what arrives; that its content is what the Hub names is
checked here, once, after the transfer.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import cast

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils.sha import git_hash
from rich import filesize
from rich.console import Console
from safetensors import safe_open

from ardiffusion.files import atomic_write

# The errors of the HTTP library, which huggingface_hub has exchanged between its versions.
TRANSPORT_ERRORS = cast(type[Exception], HfHubHTTPError.__bases__[0])


@dataclass(frozen=True)
class HubPath:
    """A place on the Hub, written hf://user/repo[/path][@revision]."""

    repo: str
    path: str = ""  # file or folder; empty for the repository itself
    revision: str = "main"  # branch, tag or commit

    def __str__(self) -> str:
        path = f"/{self.path}" if self.path else ""
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"hf://{self.repo}{path}{revision}"

    def __truediv__(self, name: str) -> "HubPath":
        return replace(self, path=f"{self.path}/{name}".strip("/"))

    @property
    def cache(self) -> Path:
        """Where huggingface_hub keeps the repository."""
        name = repo_folder_name(repo_id=self.repo, repo_type="model")
        return Path(constants.HF_HUB_CACHE, name)

    def at(self, revision: str) -> "HubPath":
        return replace(self, revision=revision)


def parse_hub_path(source: str) -> HubPath:
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)((?:/[^@/]+)*)/?(?:@([^@]+))?", source)
    parts = re.split("[/@]", source)
    if match is None or ".." in parts:
        raise ValueError(f"{source} is not of the form hf://user/repo[/path][@revision].")
    repo, path, revision = match.groups()
    return HubPath(repo=repo, path=path.strip("/"), revision=revision or "main")


def fetch(file: HubPath) -> Path:
    """Bring a file into the cache unless it is there; return its path there."""
    with readable_hub_errors(file):
        info = hf_hub_download(file.repo, file.path, revision=file.revision, dry_run=True)
        if os.path.exists(info.local_path):
            return Path(info.local_path)
        size = filesize.decimal(info.file_size or 0)
        said = f"Downloading {file} ({size}) to {constants.HF_HUB_CACHE}"
        Console(stderr=True).print(said, soft_wrap=True)
        path = Path(hf_hub_download(file.repo, file.path, revision=info.commit_hash))
        note_revision(file, commit=info.commit_hash)
    check_content(file, path)
    return path


def check_content(file: HubPath, path: Path) -> None:
    """Discard a file whose hash, SHA-256 or git's SHA-1, is not its name in the cache."""
    blob = path.resolve()
    with open(blob, "rb") as content:
        if len(blob.name) == 64:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        elif len(blob.name) == 40:
            digest = git_hash(content.read())
        else:
            return
    if digest != blob.name:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise ValueError(
            f"{file} arrived with hash {digest} instead of {blob.name}; it was discarded: run "
            "again."
        )


def list_files(folder: HubPath) -> tuple[str, list[str]]:
    """List the files in and below a folder; where the Hub is out of reach, those in the cache.

    Their paths in the repository come behind the commit that the revision stands for.
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
    # A name that leads out of the repository would lead out of the cache.
    names = [name for name in names if ".." not in PurePosixPath(name).parts]
    return commit, sorted(name for name in names if name.startswith(inside))


def note_revision(folder: HubPath, commit: str) -> None:
    """Note in the cache which commit a revision stands for, as huggingface_hub does."""
    if folder.revision != commit:
        with atomic_write(folder.cache / "refs" / folder.revision) as partial:
            partial.write_text(commit)


def cached_snapshot(folder: HubPath) -> Path | None:
    """Return where the cache keeps the files of a revision, if it has any of them."""
    ref = folder.cache / "refs" / folder.revision
    snapshot = folder.cache / "snapshots" / (ref.read_text() if ref.is_file() else folder.revision)
    return snapshot if snapshot.is_dir() else None


def entry_names(file: HubPath) -> list[str]:
    """Return the names of the tensors in a safetensors file, reading no more than its header."""
    cached = try_to_load_from_cache(file.repo, file.path, revision=file.revision)
    if isinstance(cached, str):
        with safe_open(cached, framework="pt") as tensors:
            return list(tensors.keys())
    with readable_hub_errors(file):
        header = HfApi().parse_safetensors_file_metadata(
            file.repo, file.path, revision=file.revision
        )
    return list(header.tensors)


def refused(wanted: object, status: int) -> OSError:
    """Say that the Hub did not hand something out; 401 is also its answer to wrong names."""
    login = "log in with `hf auth login` or set HF_TOKEN"
    if status in (401, 403):
        return ConnectionError(
            f"{constants.ENDPOINT} refuses access to {wanted} ({status}): check its name; if the "
            f"repository is private or gated, {login}."
        )
    if status == 404:
        return FileNotFoundError(
            f"There is no {wanted} on {constants.ENDPOINT} (404): check its name and revision; if "
            f"the repository is private, {login}."
        )
    return ConnectionError(
        f"{constants.ENDPOINT} answered {status} when asked for {wanted}: try again later."
    )


def out_of_reach(wanted: object) -> OSError:
    """Say that something is neither in the cache nor to be had now."""
    by_hand = "or download it by hand and give its path instead"
    if constants.HF_HUB_OFFLINE:
        return FileNotFoundError(
            f"{wanted} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids "
            f"to fetch it from {constants.ENDPOINT}: go online once, {by_hand}."
        )
    return ConnectionError(
        f"{constants.ENDPOINT} cannot be reached, and {wanted} is not in the cache "
        f"{constants.HF_HUB_CACHE}: check the connection, {by_hand}."
    )


def unwritable(target: object) -> OSError:
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "no connection"
    return ConnectionError(
        f"{target} cannot be written ({why}): write to a folder, and upload when the Hub, "
        f"{constants.ENDPOINT}, can be reached."
    )


@contextmanager
def readable_hub_errors(
    wanted: object, unreachable: Callable[[object], OSError] = out_of_reach
) -> Iterator[None]:
    """Turn what huggingface_hub raises while we want something of it into one sentence."""
    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise unreachable(wanted) from error
    except HfHubHTTPError as error:
        raise refused(wanted, status=error.response.status_code) from error
    except TRANSPORT_ERRORS as error:
        raise unreachable(wanted) from error
