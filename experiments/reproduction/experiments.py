"""Which trainings, videos and measurements each experiment of `make reproduce` needs."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ardiffusion.tools.gallery import Section
from experiments.reproduction import sections
from experiments.reproduction.models import MODELS
from experiments.reproduction.results import Results
from experiments.reproduction.runs import HELD_OUT, Recipe
from experiments.stages import Stage


class Experiment(NamedTuple):
    """An experiment.

    Attributes:
        section: Makes its part of the page.
        models: The generators that it compares.
        samples: The sets of videos that it shows.
        timed: Sets whose generation is timed, video by video.
        curves: Whether it draws the trainings' losses.
    """

    section: Callable[[Results], Section]
    models: tuple[str, ...]
    samples: tuple[str, ...] = ()
    timed: tuple[str, ...] = ()
    curves: bool = False


EXPERIMENTS = {
    "tokenizer": Experiment(
        sections.tokenizer,
        models=("ar-diffusion", "grid"),
        samples=("ar-diffusion", "grid"),
        timed=("ar-diffusion", "grid"),
    ),
    "time": Experiment(
        sections.time,
        models=tuple(sections.METHODS),
        timed=tuple(sections.METHODS.values()),
    ),
    "stability": Experiment(sections.stability, models=tuple(sections.METHODS), curves=True),
    "difference": Experiment(
        sections.difference,
        models=("ar-diffusion",),
        samples=tuple(sections.DIFFERENT.values()),
        timed=tuple(sections.DIFFERENT.values()),
    ),
    "timesteps": Experiment(
        sections.timesteps,
        models=sections.DRAWN,
        samples=tuple(f"long-{name}" for name in sections.DRAWN),
    ),
    "methods": Experiment(
        sections.methods,
        models=tuple(sections.METHODS),
        samples=(*sections.METHODS, *sections.METHODS.values()),
    ),
}


def stages_of(experiments: Iterable[Experiment], recipe: Recipe) -> Iterator[Stage]:
    """Yield the commands of some experiments, none twice, auto-encoders first."""
    chosen = list(experiments)
    models = in_order(name for experiment in chosen for name in experiment.models)
    for name in in_order(MODELS[model].tokenizer for model in models):
        yield from recipe.tokenizer(name)
    yield recipe.distance(HELD_OUT, real=recipe.train)
    yield from (recipe.model(name) for name in models)
    for name in in_order(name for experiment in chosen for name in experiment.samples):
        yield from recipe.videos(name)
    for name in in_order(name for experiment in chosen for name in experiment.timed):
        yield recipe.timed(name)
    if any(experiment.curves for experiment in chosen):
        yield recipe.curves(list(sections.METHODS))


def in_order(names: Iterable[str]) -> list[str]:
    """Drop repetitions."""
    return list(dict.fromkeys(names))
