"""Stages of an experiment: commands that are done once, so that what was cut short goes on."""

import json
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from ardiffusion.files import write_json
from experiments.command import run


class Stage(NamedTuple):
    """A command, what it is called, and how many processes of it read clips."""

    name: str
    command: list[str]
    readers: int = 0


class StageLog:
    """What is done, and how long it took: `done.json`, beside the settings it was done with.

    Args:
        folder: Folder of the experiment.
        settings: All that its results depend on.
        kind: What the experiment is called.

    Raises:
        ValueError: If the folder holds an experiment with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], kind: str) -> None:
        self.path, self.settings = folder / "done.json", dict(settings)
        self.seconds: dict[str, float] = {}
        self.lock = Lock()  # stages may be done at once
        if self.path.exists():
            found = json.loads(self.path.read_text())
            for name, value in self.settings.items():
                if found["settings"].get(name) != value:
                    raise ValueError(
                        f"{folder} holds a {kind} with {name} {found['settings'].get(name)}, not "
                        f"{value}; choose another --out."
                    )
            self.seconds = found["seconds"]

    def do(self, stage: Stage, place: str = "") -> None:
        """Run a stage unless it is done."""
        if stage.name not in self.seconds:
            seconds = run(place + stage.name, stage.command, readers=stage.readers)
            self.note(stage.name, seconds)

    def note(self, name: str, seconds: float) -> None:
        """Remember that a stage is done."""
        with self.lock:
            self.seconds[name] = round(seconds, 1)
            write_json(self.path, {"settings": self.settings, "seconds": self.seconds})
