"""What a column of a gallery holds: a folder's videos, with what samples.jsonl says of each."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ardiffusion.data.layouts import find_clips, without_suffix
from ardiffusion.data.samples import read_samples


@dataclass(frozen=True)
class Clip:
    """A video of a column: its path below the folder, its class and its line in samples.jsonl."""

    name: str
    path: Path
    label: str | None = None
    sample: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What the same video is called in other columns: its sample index, or path and stem."""
        index = self.sample.get("index")
        return f"{index:06d}" if isinstance(index, int) else without_suffix(self.name)


def read_clips(column: str, folder: Path) -> list[Clip]:
    """List the videos of a column's folder: in the order of their indices, or of their names.

    Raises:
        OSError: If there is no such folder.
        ValueError: If it holds no videos.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Folder {folder} of column {column!r} does not exist: correct --columns."
        )
    try:
        entries = find_clips(folder)
    except ValueError as error:
        raise ValueError(
            f"Folder {folder} of column {column!r} holds no videos and no folders of frames: "
            "correct --columns."
        ) from error
    samples = read_samples(folder)
    clips = []
    for entry in entries:
        sample = samples.get(entry.path, {})
        label = sample.get("label")
        named = entry.label if label is None else str(label)
        clips.append(Clip(entry.path, path=folder / entry.path, label=named, sample=sample))
    return sorted(clips, key=lambda clip: clip.key) if samples else clips


def common_settings(clips: list[Clip]) -> dict[str, Any]:
    """Return what all samples of a column share, the names of single samples left out."""
    samples = [clip.sample for clip in clips if clip.sample]
    if not samples:
        return {}
    own = {"file", "index", "label"}
    first, *rest = samples
    return {
        name: value
        for name, value in first.items()
        if name not in own and all(name in other and other[name] == value for other in rest)
    }
