"""Files that are whole or not there: atomic writes, JSON lines that survive a crash, the cache.

JSON from disk is what its reader takes it for only if `has_type` says so, however it came there.

What is written goes to `.NAME.HOST-PID.tmp` in the same folder and is moved into place when it is
whole. A process that was killed leaves such a file behind, which the next writer there removes.
"""

import errno
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

PICKLED = (".bin", ".ckpt", ".pt", ".pth")  # what files of torch.save are called
# Versions before the host was part of the name wrote `.NAME.PID.tmp`.
LEFTOVER = re.compile(r"\..+\.(?:(?P<host>[^.]+)-)?(?P<pid>\d+)\.tmp", flags=re.DOTALL)


def shown(name: str | Path) -> str:
    """Spell a name for a sentence; one with control characters or no UTF-8 is quoted as code."""
    text = str(name)
    return text if text.isprintable() else repr(text)


def partial_path(path: Path) -> Path:
    """Name the file in which `path` grows, and remove what dead processes left in its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    return path.with_name(f".{path.name}.{host_name()}-{os.getpid()}.tmp")


def host_name() -> str:
    return re.sub(r"[^\w]", "_", socket.gethostname())


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of processes of this machine that are no more."""
    for entry in os.scandir(folder):
        found = LEFTOVER.fullmatch(entry.name)
        if found and found["host"] in (None, host_name()) and not is_running(int(found["pid"])):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    try:
        with suppress(PermissionError):  # it is somebody else's
            os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    return True


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield another name in the same folder; what is written there becomes `path` in the end."""
    path = Path(path)
    try:
        partial = partial_path(path)
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise write_failure(path, error) from error


def write_failure(path: Path, error: BaseException) -> OSError:
    """Say that a file cannot be written, and why; torch.save hides the reason in the context."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.errno):
        cause = cause.__context__
    code = cause.errno if isinstance(cause, OSError) else None
    reason = os.strerror(code).lower() if code else str(error)
    failure = OSError(
        f"Cannot write {shown(path)} ({reason}): free some space or choose another place."
    )
    failure.errno = code
    return failure


def write_json(path: str | Path, content: object) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None
) -> None:
    whole = {name: value.contiguous() for name, value in tensors.items()}
    with atomic_write(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(whole, partial, metadata=dict(notes or {}))
        partial.chmod(mode)  # safetensors makes files that nobody else may read


def read_text(path: str | Path, errors: str = "strict") -> str:
    """Read a text in UTF-8; a pipe, in which nothing may ever come, counts as no file."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise FileNotFoundError(errno.ENOENT, "a pipe, a device or a folder", str(path))
    return Path(path).read_text(encoding="utf-8", errors=errors)


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """Read the JSON objects of a file, one per line; a line that a crash cut short does not count.

    Where there is no file there are no lines.
    """
    try:
        text = read_text(path, errors="replace")
    except FileNotFoundError:
        return []
    found = []
    for line in text.split("\n"):
        with suppress(ValueError):
            value = json.loads(line)
            found += [value] if isinstance(value, dict) else []
    return found


def append_json_lines(path: str | Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Append JSON objects in one write that is on disk when this returns.

    Processes do not mix their lines, and a line that was cut short spoils none of the new ones.
    """
    path, text = Path(path), "".join(json.dumps(line) + "\n" for line in lines)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                text = "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise write_failure(path, error) from error


def has_type(value: object, kind: Any) -> bool:  # noqa: ANN401 any type
    """Say whether parsed JSON has a type made of dicts, lists, tuples, unions and plain types.

    An int may stand where a float is expected, and a bool for nothing but a bool.
    """
    outer, inner = get_origin(kind) or kind, get_args(kind)
    if kind is Any:
        return True
    if outer is UnionType:
        return any(has_type(value, each) for each in inner)
    if is_typeddict(kind):
        entries = get_type_hints(kind).items()
        return type(value) is dict and all(has_type(value.get(n), wanted) for n, wanted in entries)
    if type(value) is not outer:
        return kind is float and type(value) is int
    if isinstance(value, dict) and inner:
        return has_type([*value], list[inner[0]]) and has_type([*value.values()], list[inner[1]])
    if isinstance(value, list) and inner:
        if {*map(type, value)} <= {inner[0]} <= {int, str, bool}:  # of which there may be millions
            return True
        return all(has_type(entry, inner[0]) for entry in value)
    if isinstance(value, tuple) and inner:
        return len(value) == len(inner) and all(map(has_type, value, inner))
    return True


@contextmanager
def only_writer(folder: str | Path, file: str | None = None) -> Iterator[None]:
    """Be the one process that writes into a folder; of a job's processes one speaks for all.

    The folder is made; `file` is what is written, if others may write other ones there.
    """
    folder = Path(folder)
    lock = FileLock(folder / f".{file or 'writer'}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        Path(lock.lock_file).touch()  # FileLock takes a folder that admits none for a busy one
    except OSError as error:
        raise write_failure(folder, error) from error
    try:
        lock.acquire(timeout=0)
    except Timeout:
        kind, place = ("file", folder / file) if file else ("folder", folder)
        raise OSError(
            f"Another process is writing into {shown(place)}: wait until it is done or choose "
            f"another {kind}."
        ) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held; others then make theirs
        lock.release()


@contextmanager
def naming(source: object) -> Iterator[None]:
    """Let errors about what a file says begin with its name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ardiffusion"
