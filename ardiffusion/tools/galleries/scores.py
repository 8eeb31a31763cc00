"""Scores on a page: one table for each protocol, since numbers of two protocols do not compare."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ardiffusion.metrics.score import Score
from ardiffusion.tools.galleries.markup import Cell, Markup, definitions, element, join, table

COLUMNS = ("Metric", "Value", "95 % interval", "Real", "Generated", "Data", "Weights")
DIGITS = 8  # of a fingerprint


def read_score(score: Path | str | Mapping[str, Any] | Score) -> Score:
    """Return a score, of its file or its fields.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is no score.
    """
    if isinstance(score, Score):
        return score
    if not isinstance(score, Mapping):
        if not Path(score).is_file():
            raise FileNotFoundError(f"Score {score} does not exist: correct --scores.")
        return Score.load(score)
    try:
        return Score(**score)
    except TypeError as error:
        raise ValueError(f"A score record lacks fields or has others: {error}.") from error


def by_protocol(scores: Sequence[Score]) -> list[list[Score]]:
    """Group scores that were measured alike, whatever of, in the order of their first ones."""
    groups: dict[str, list[Score]] = {}
    for score in scores:
        alike = {name: value for name, value in score.compared().items() if name != "metric"}
        groups.setdefault(json.dumps(alike, sort_keys=True, default=str), []).append(score)
    return list(groups.values())


def score_tables(scores: Sequence[Score]) -> Markup:
    """Return one table for each protocol."""
    groups = by_protocol(scores)
    apart = element(
        "p",
        f"These scores were measured in {len(groups)} ways. Numbers compare within a table only.",
        class_="note",
    )
    return join(apart if len(groups) > 1 else "", *(protocol_table(group) for group in groups))


def protocol_table(group: Sequence[Score]) -> Markup:
    """Return the table of one protocol, with what it fixes and what to beware of."""
    first = group[0]
    name = first.protocol.get("name", "unnamed protocol")
    title = f"{name}: split {first.split}, stride {first.stride}, {first.resolution} pixels"
    fixed = {key: value for key, value in first.protocol.items() if key != "name"}
    details = element(
        "details",
        element("summary", "Protocol"),
        definitions(fixed | {"network": first.network}),
    )
    quoted = element(
        "details",
        element("summary", "Lines to quote"),
        element("pre", "\n".join(line(score) for score in group)),
    )
    concerned: dict[str, list[str]] = {}
    for score in group:
        for warning in score.warnings:
            concerned.setdefault(warning, []).append(f"{score.metric} of {origin(score)}")
    cautions = [
        element("li", element("strong", f"{', '.join(names)}: "), warning)
        for warning, names in concerned.items()
    ]
    warned = element("ul", *cautions, class_="warnings", aria_label="Warnings")
    rows = [cells(score) for score in group]
    return element(
        "div",
        table(title, columns=list(COLUMNS), rows=rows),
        warned if cautions else "",
        details,
        quoted,
        class_="protocol",
    )


def cells(score: Score) -> list[Cell]:
    weights = score.weights or "–"
    return [
        score.metric,
        float(score.value),
        "–" if score.interval is None else "{:.4g} to {:.4g}".format(*score.interval),
        score.real,
        score.fake,
        origin(score),
        element("code", weights[:DIGITS], title=weights),
    ]


def origin(score: Score) -> str:
    """Name what was measured."""
    return str(score.data.get("fake") or score.data.get("real") or "–")


def line(score: Score) -> str:
    """Say a score in one line, also where its protocol has no name."""
    return score.line() if "name" in score.protocol else f"{score.metric} = {score.value:.4f}"
