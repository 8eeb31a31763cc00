"""Types of options with bounds, and the classes that options name."""

import importlib
import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    PositiveInt = NonNegativeInt = Seed = int
    NonNegativeFloat = FPS = float
    Label = str
else:
    from jsonargparse import typing

    from ardiffusion.data.writer import FPS as RATES
    from ardiffusion.diffusion.noise import LAST_SEED

    PositiveInt, NonNegativeInt = typing.PositiveInt, typing.NonNegativeInt
    NonNegativeFloat = typing.NonNegativeFloat
    # what YAML takes for something else in a list of these leaves the text as it was written
    Label = typing.restricted_string_type("Label", r"[\s\S]+")
    Seed = typing.restricted_number_type("Seed", int, [(">=", 0), ("<=", LAST_SEED)])
    FPS = typing.restricted_number_type("FPS", float, [(">=", RATES[0]), ("<=", RATES[1])])


def makes(factory: object, wanted: type) -> bool:
    """Say whether a class, or what a function says that it returns, is of a kind."""
    if inspect.isfunction(factory):
        factory = inspect.signature(factory, eval_str=True).return_annotation
    return inspect.isclass(factory) and issubclass(factory, wanted)


def import_object(path: str) -> object:
    """Import what a configuration names, which is the user's own word."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name, None)
