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


def read_sample_log(folder: str | Path) -> SampleLog:
    """Read the log of a folder of generated videos; it is empty where there is none."""
    path = Path(folder) / NAME
    lines: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(ValueError):  # one that a crash cut short
            lines.append(json.loads(line))
    settings = {
        name: value
        for name, value in (lines[0] if lines else {}).items()
        if name not in OWN and all(line.get(name) == value for line in lines)
    }
    return SampleLog(
        seeds=sorted({line["seed"] for line in lines if "seed" in line}),
        models=sorted({str(line["model"]) for line in lines if "model" in line}),
        settings=settings,
    )
