"""What `samples.jsonl` says of a folder of generated videos: seeds, model and settings."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

NAME = "samples.jsonl"
OWN = ("file", "index", "seed", "label", "model")  # everything else is a setting of the folder


class SampleLog(NamedTuple):
    """Seeds of the runs, fingerprints of the models, and the settings that all samples share."""

    seeds: list[int]
    models: list[str]
    settings: dict[str, Any]


def read_samples(folder: str | Path) -> dict[str, dict[str, Any]]:
    """Read the last line of each file; lines that a crash cut short do not count.

    Where there is no log, or none that can be read, nothing is known of any file.
    """
    found: dict[str, dict[str, Any]] = {}
    text = ""
    with suppress(OSError):
        text = (Path(folder) / NAME).read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        with suppress(ValueError):
            sample = json.loads(line)
            if isinstance(sample, dict) and isinstance(sample.get("file"), str):
                found[sample["file"]] = sample
    return found


def read_sample_log(folder: str | Path) -> SampleLog:
    """Say what the log of a folder of generated videos tells; nothing where there is none."""
    lines = list(read_samples(folder).values())
    settings = {
        name: value
        for name, value in (lines[0] if lines else {}).items()
        if name not in OWN and all(name in line and line[name] == value for line in lines)
    }
    return SampleLog(
        seeds=sorted({line["seed"] for line in lines if isinstance(line.get("seed"), int)}),
        models=sorted({str(line["model"]) for line in lines if "model" in line}),
        settings=settings,
    )
