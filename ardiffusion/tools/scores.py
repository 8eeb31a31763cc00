"""Scores in a table, if they compare: `python -m ardiffusion.tools.scores FILE...`."""

import json
from dataclasses import asdict
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from ardiffusion.metrics.score import Score, check_comparable
from ardiffusion.tools.command import user_errors


def scores(files: list[str]) -> list[dict[str, Any]]:
    """Print scores that were measured alike, the smallest first, and return them.

    Args:
        files: Files that the fvd tool wrote with --output.
    """
    records = {file: Score.load(file) for file in files}
    check_comparable(list(records.values()), names=list(records))
    ordered = sorted(records.items(), key=lambda item: item[1].value)
    Console().print(table(dict(ordered)))
    return [{"file": file} | asdict(record) for file, record in ordered]


def table(records: dict[str, Score]) -> Table:
    """Lay out scores, by the names of their files."""
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


def main(args: list[str] | None = None) -> None:
    """Run the command line; the last line of its output is one JSON object."""
    parser = ArgumentParser(description="Print scores that were measured alike, smallest first.")
    parser.add_argument("files", nargs="+", help="Files that the fvd tool wrote with --output.")
    with user_errors():
        result = scores(parser.parse_args(args).files)
    print(json.dumps({"scores": result}))


if __name__ == "__main__":
    main()
