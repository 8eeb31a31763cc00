"""Types of options with bounds, and what options name: shipped configurations and classes."""

import importlib
import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    PositiveInt = NonNegativeInt = Seed = int
    NonNegativeFloat = FPS = float
else:
    from jsonargparse import typing

    from ardiffusion.data.writer import FPS as RATES
    from ardiffusion.diffusion.noise import LAST_SEED

    PositiveInt, NonNegativeInt = typing.PositiveInt, typing.NonNegativeInt
    NonNegativeFloat = typing.NonNegativeFloat
    Seed = typing.restricted_number_type("Seed", int, [(">=", 0), ("<=", LAST_SEED)])
    FPS = typing.restricted_number_type("FPS", float, [(">=", RATES[0]), ("<=", RATES[1])])

PACKAGE = Path(__file__).parents[1]
SHIPPED = (PACKAGE / "configs", PACKAGE.parent / "configs")  # in a wheel, in a source tree


def find_configs(args: list[str]) -> list[str]:
    """Replace the names of shipped configs after --config, -c or --data; own files win."""
    found = list(args)
    for i, arg in enumerate(args):
        option, _, value = arg.partition("=")
        if option in ("--config", "-c", "--data") and value:
            found[i] = f"{option}={config_file(value)}"
        elif i and args[i - 1] in ("--config", "-c", "--data"):
            found[i] = config_file(arg)
    return found


def config_file(name: str) -> str:
    """Return the path of a config: the file itself if it exists, else the shipped one."""
    if os.path.isfile(name):
        with open(name, "rb") as file:
            if file.read(2) == b"PK":
                raise ValueError(f"{name} is a checkpoint and no configuration: use --ckpt_path.")
    if os.path.exists(name):
        return name
    shipped = [folder / name for folder in SHIPPED if os.path.isfile(folder / name)]
    return str(shipped[0]) if shipped else name


def makes(factory: object, wanted: type) -> bool:
    """Say whether a class, or what a function says that it returns, is of a kind."""
    if inspect.isfunction(factory):
        factory = inspect.signature(factory, eval_str=True).return_annotation
    return inspect.isclass(factory) and issubclass(factory, wanted)


def import_object(path: str) -> object:
    """Import what a configuration names, which is the user's own word."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name, None)
