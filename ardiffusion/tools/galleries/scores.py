"""Scores on a page: one table for each protocol, since numbers of two protocols do not compare."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ardiffusion.metrics.score import Score


def read_score(score: Path | str | Mapping[str, Any] | Score) -> Score:
    """Return a score, of its file or its fields."""
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


def by_protocol(scores: Iterable[Score]) -> list[list[Score]]:
    """Group scores that were measured alike, whatever of, in the order of their first ones."""
    groups: dict[str, list[Score]] = {}
    for score in scores:
        alike = {name: value for name, value in score.compared().items() if name != "metric"}
        groups.setdefault(json.dumps(alike, sort_keys=True, default=str), []).append(score)
    return list(groups.values())


def warned(scores: Sequence[Score]) -> dict[str, list[str]]:
    """Name the scores that each warning is about."""
    found: dict[str, list[str]] = {}
    for score in scores:
        for warning in score.warnings:
            found.setdefault(warning, []).append(f"{score.metric} of {measured(score)}")
    return found


def measured(score: Score) -> str:
    return str(score.data.get("fake") or score.data.get("real") or "–")


def quote(score: Score) -> str:
    """Say a score in one line, also where its protocol has no name."""
    return score.line() if "name" in score.protocol else f"{score.metric} = {score.value:.4f}"
