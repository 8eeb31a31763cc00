"""Reads what a finished `make reproduce` measured."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ardiffusion.metrics.score import Score
from ardiffusion.weights.checkpoint import read_checkpoint
from experiments.reproduction.models import SAMPLES
from experiments.reproduction.runs import WINDOW, Recipe

DISTANCE = "Fréchet distance"


@dataclass(frozen=True)
class Results:
    """Reads what a finished reproduction measured.

    Attributes:
        recipe: Places and sizes.
    """

    recipe: Recipe

    def score(self, name: str) -> str:
        """Return a set's Fréchet distance with its interval."""
        score = Score.load(self.recipe.score(name))
        low, high = score.interval or (score.value, score.value)
        return f"{score.value:.2f} ({low:.2f} to {high:.2f})"

    def scores(self, names: Iterable[str]) -> list[Path]:
        """Return the files of scores."""
        return [self.recipe.score(name) for name in names]

    def batches(self, name: str) -> int:
        """Return how many batches a training saw."""
        return int(read_checkpoint(self.recipe.last(name))["global_step"])

    def alone(self, name: str) -> dict[str, float]:
        """Return the seconds of single videos by their length."""
        return json.loads(self.recipe.time(name).read_text())["seconds"]

    def one_video(self, name: str) -> str:
        """Return the seconds of a single video of a set of short ones."""
        return f"{self.alone(name)[str(WINDOW)]:.2f}"

    def psnr(self, name: str) -> str:
        """Return how near a set of reconstructions is to what it was made from, in decibels."""
        return f"{Score.load(self.recipe.score(f'{name}.psnr')).value:.1f}"

    def made(self, names: Iterable[str]) -> dict[str, Path]:
        """Return the folders of sets by their titles."""
        return {SAMPLES[name].title: self.recipe.made(name) for name in names}

    def steadiness(self) -> list[dict[str, Any]]:
        """Return the figures of the trainings' losses, one row per training."""
        return json.loads((self.recipe.out / "stability.json").read_text())["runs"]
