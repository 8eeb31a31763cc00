"""Files with one JSON line per training step, which resumed runs go on with."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ardiffusion.files import atomic_write


class StepLog:
    """A file with a line {"step": ...} per step.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[dict[str, Any]]:
        """Read the steps; a line cut short by a crash does not count."""
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
        return found

    def cut(self, step: int) -> None:
        """Drop the steps after `step`, which a run resumed there takes again."""
        kept = (
            [line for line in self.lines() if line["step"] <= step] if self.path.exists() else []
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as partial:
            text = "".join(json.dumps(line) + "\n" for line in kept)
            partial.write_text(text, encoding="utf-8")

    def add(self, lines: Iterable[dict[str, Any]]) -> None:
        """Append steps in one write."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(text)
