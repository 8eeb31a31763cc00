"""Folders of generated videos, each with a line in `samples.jsonl` that says what made it.

A line holds the file, its index, seed and class, and the settings of the run: length, steps, plan,
sink, guidance, solver and its arguments, target, schedule, prefix, frames per second, precision,
and as `model` the fingerprint of the generator. The folder is read and written here alone; what a
run says of its samples is put together in `training/predict.py`.
"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ardiffusion.data.streams import open_video
from ardiffusion.files import append_json_lines, read_json_lines

NAME = "samples.jsonl"
OWN = ("file", "index", "seed", "label", "model")  # everything else is a setting of the folder


class SampleFolder:
    """A folder of generated videos with one line per finished one in `samples.jsonl`.

    Args:
        path: The folder; it is made when the first sample is added.
        settings: What all samples of the folder share.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = Path(path), settings
        self.log = self.path / NAME

    def missing(self, requests: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the requested samples that are not there yet, whole.

        Raises:
            ValueError: If the folder holds samples of other settings.
        """
        done = {line.get("index"): line for line in read_samples(self.path).values()}
        missing = []
        for request in requests:
            line, wanted = done.get(request["index"]), self.settings | request
            if line is None or not is_whole(self.path / line["file"]):
                missing.append(request)
                continue
            other = [name for name in wanted if line.get(name) != wanted[name]]
            if other:
                raise ValueError(
                    f"{self.log} holds samples made with other settings ({other[0]} is "
                    f"{line.get(other[0])!r}, now {wanted[other[0]]!r}); choose another --output."
                )
        return missing

    def add(self, request: dict[str, Any], file: str) -> None:
        append_json_lines(self.log, [{"file": file} | request | self.settings])


class SampleLog(NamedTuple):
    """Seeds of the runs, fingerprints of the models, and the settings that all samples share."""

    seeds: list[int]
    models: list[str]
    settings: dict[str, Any]


def is_whole(path: Path) -> bool:
    """Say whether a file is there and opens as a video, which one that was cut short does not."""
    try:
        with open_video(path):
            return True
    except (ValueError, OSError):
        return False


def read_samples(folder: str | Path) -> dict[str, dict[str, Any]]:
    """Read the last line of each file; lines that are no samples, or lead elsewhere, do not count.

    Where there is no log, or none that can be read, nothing is known of any file.
    """
    try:
        lines = read_json_lines(Path(folder) / NAME)
    except OSError:
        return {}
    return {line["file"]: line for line in lines if is_inside(line.get("file"))}


def is_inside(file: object) -> bool:
    """Say whether what a record names is a file below its folder, with forward slashes."""
    if not isinstance(file, str) or not file or "\0" in file:
        return False
    return file[0] != "/" and ".." not in file.split("/")


def read_sample_log(folder: str | Path) -> SampleLog:
    """Say what the log of a folder of generated videos tells; nothing where there is none."""
    lines = list(read_samples(folder).values())
    return SampleLog(
        seeds=sorted({line["seed"] for line in lines if isinstance(line.get("seed"), int)}),
        models=sorted({str(line["model"]) for line in lines if "model" in line}),
        settings=shared_settings(lines, own=OWN),
    )


def shared_settings(lines: Iterable[dict[str, Any]], own: Collection[str]) -> dict[str, Any]:
    """Return what all lines share, without the names of what is a sample's own."""
    first, *rest = [*lines] or [{}]
    return {
        name: value
        for name, value in first.items()
        if name not in own and all(name in other and other[name] == value for other in rest)
    }
