"""The command `ardiff`: tools over videos, scores, runs and models.

A tool is the function of its name in the module of its name. Only the one that is called is
imported, so that `ardiff --help` waits for none.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module
from inspect import Parameter, getdoc, signature
from typing import Any

from jsonargparse import ArgumentParser

from ardiffusion import __version__
from ardiffusion.training.configs import find_configs
from ardiffusion.training.messages import user_errors

ABOUT = """\
Tools over videos, scores, runs and models of AR-Diffusion.

Each ends its output with one JSON object; --debug shows the traceback of an error."""
TOOLS = {
    "fvd": "measure how far generated videos are from real ones",
    "scores": "print scores that were measured alike, the smallest first",
    "reconstruct": "encode and decode videos",
    "gallery": "show videos, scores and figures on one HTML page",
    "live": "open a page on which videos appear while they are made",
    "stability": "compare how steadily runs train",
    "export": "write a model to share, in a folder or on the Hub",
    "publish": "write videos to object storage, to train from there",
    "videos": "write procedural videos into class folders",
}


class ToolParser(ArgumentParser):
    """A parser whose help says what the command does before how it is called."""

    def format_help(self, *args: Any, **given: Any) -> str:  # noqa: ANN401 as versions have it
        """Put the description, as it is written, above the rest."""
        about, self.description = self.description, None
        try:
            return f"{about}\n\n{super().format_help(*args, **given)}"
        finally:
            self.description = about


def main(args: Sequence[str] | None = None) -> None:
    """Run `ardiff`; the first process prints what the tool returns as the last line."""
    given = sys.argv[1:] if args is None else args
    with nullcontext() if "--debug" in given else user_errors():
        args = [arg for arg in given if arg != "--debug"]
        result = run(find_configs(args, options=("--config",)))
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(result))


def run(args: Sequence[str]) -> Any:  # noqa: ANN401 whatever the tool returns
    """Call the tool that is named with the arguments that follow."""
    parser = ToolParser(prog="ardiff", description=ABOUT, version=__version__, exit_on_error=False)
    tools = parser.add_subcommands(dest="tool", metavar="TOOL")
    called = next((arg for arg in args if arg in TOOLS), None)
    for name, line in TOOLS.items():
        own = tool_parser(find_tool(name)) if name == called else ToolParser()
        tools.add_subcommand(name, own, help=line)
    parsed = parser.instantiate(parser.parse_args(args))
    function, options = find_tool(parsed.tool), dict(parsed[parsed.tool])
    del options["config"]
    given = [options.pop(name) for name in positional(function)]
    values = [value for one in given for value in (one if isinstance(one, list) else [one])]
    return function(*values, **options)


def find_tool(name: str) -> Callable[..., Any]:
    return getattr(import_module(f"ardiffusion.tools.{name}"), name)


def tool_parser(function: Callable[..., Any]) -> ToolParser:
    """Make the parser of a tool's arguments; those without a default are positional."""
    about, _, arguments = (getdoc(function) or "").partition("\n\nArgs:\n")
    parser = ToolParser(description=about, exit_on_error=False)
    special = positional(function)
    for name, parameter in special.items():
        (text,) = [s for s in arguments.splitlines() if s.strip().startswith(f"{name}: ")]
        count = "+" if parameter.kind is Parameter.VAR_POSITIONAL else "?"
        text = text.partition(": ")[2]
        parser.add_argument(name, nargs=count, type=parameter.annotation, help=text)
    parser.add_argument("--config", action="config", help="YAML file with options.")
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=set(special))
    return parser


def positional(function: Callable[..., Any]) -> dict[str, Parameter]:
    """Find the parameters without an option: `*name`, for many, and `name, /`, for at most one."""
    kinds = (Parameter.VAR_POSITIONAL, Parameter.POSITIONAL_ONLY)
    return {name: p for name, p in signature(function).parameters.items() if p.kind in kinds}
