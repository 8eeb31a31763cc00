"""Scores in a table, if they compare: `ardiff scores FILE...`."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from ardiffusion.metrics.score import Score, check_comparable


def scores(*files: str) -> dict[str, Any]:
    """Print scores that were measured alike, the smallest first, and return them.

    Args:
        files: Files that `ardiff fvd` wrote with --output.
    """
    records = {file: Score.load(file) for file in files}
    check_comparable(list(records.values()), names=list(records))
    ordered = sorted(records.items(), key=lambda item: item[1].value)
    Console(markup=False).print(score_table(dict(ordered)))
    return {"scores": [{"file": file} | asdict(record) for file, record in ordered]}


def score_table(records: dict[str, Score]) -> Table:
    first = next(iter(records.values()))
    title = (
        f"{first.metric}, {first.protocol['name']}, {first.real} real and {first.fake} generated, "
        f"split {first.split}, {first.resolution} pixels"
    )
    found = Table("file", "generated", "weights", first.metric, "95 %", "warnings", title=title)
    for file, record in records.items():
        between = "{:.4g} to {:.4g}".format(*record.interval) if record.interval else ""
        found.add_row(
            file,
            str(record.data.get("fake", "")),
            record.weights or "",
            f"{record.value:.4f}",
            between,
            str(len(record.warnings) or ""),
        )
    return found
