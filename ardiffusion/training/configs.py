"""Configurations that a command line names: files of one's own, or those shipped with us."""

import os
import re
from pathlib import Path

import yaml

PACKAGE = Path(__file__).parents[1]
SHIPPED = (PACKAGE / "configs", PACKAGE.parent / "configs")  # in a wheel, in a source tree


def find_configs(
    args: list[str], options: tuple[str, ...] = ("--config", "-c", "--data")
) -> list[str]:
    """Replace the names of shipped configs after some options, and ~ where the shell does not."""
    home = os.path.expanduser("~")
    found = [re.sub("(^|=)~(?=/|$)", lambda start: start[1] + home, arg, count=1) for arg in args]
    for i, arg in enumerate(found):
        option, _, value = arg.partition("=")
        if option in options and value:
            found[i] = f"{option}={config_file(value)}"
        elif i and found[i - 1] in options:
            found[i] = config_file(arg)
    return found


def config_file(name: str) -> str:
    """Return the path of a config: the file itself if it exists, else the shipped one.

    Raises:
        ValueError: If there is none, or it holds no options.
    """
    if not os.path.exists(name):
        shipped = [folder / name for folder in SHIPPED if os.path.isfile(folder / name)]
        if not shipped and name.endswith(".yaml"):
            known = sorted({path.name for folder in SHIPPED for path in folder.glob("*.yaml")})
            raise ValueError(
                f"There is no configuration {name}: name a file of yours or a shipped one, "
                f"{', '.join(known)}, or one of data/ or experiments/."
            )
        return str(shipped[0]) if shipped else name
    found, place = None, ""
    try:
        if os.path.isfile(name):  # a pipe might never end
            found = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1} is no YAML)" if mark else ""
    if not isinstance(found, dict):
        raise ValueError(
            f"{name} is no configuration{place}: name a file of options in YAML; a checkpoint is "
            "for --ckpt_path."
        )
    return name
