"""README and docs: links lead somewhere, and commands are ones that the parsers accept."""

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import pytest
from jsonargparse import ArgumentParser, auto_parser
from PIL import Image

from ardiffusion import cli
from ardiffusion.tools.command import TOOLS, find_tool, tool_parser

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Attribute")
ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = ROOT / "configs"
STAGES = {"ardiff-vae": cli.vae, "ardiff-dit": cli.dit}
VERBS = ("fit", "validate", "test", "predict")
OURS = (*STAGES, "ardiff", "make", "python -m", ".venv/bin/python")
SHOWN = {"--help", "--version", "--print_config", "--debug"}  # print, or are taken out by the CLI
THEIRS = {"--extra-index-url"}  # pip's


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def without_code(page: Path) -> str:
    """Return a page without what stands in code, where brackets are no links."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", text_of(page), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Name a page's headlines as GitHub does."""
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_the_readme_is_short_and_its_picture_moves() -> None:
    readme = text_of(PAGES[0])
    assert len(readme.splitlines()) <= 150
    path = ROOT / re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme)[0]
    assert path.stat().st_size < 2e6
    with Image.open(path) as picture:
        assert getattr(picture, "n_frames", 1) > 100 and picture.width <= 640


def test_every_page_is_linked_from_the_readme() -> None:
    links = set(re.findall(r"\]\(([^)#\s]+)", text_of(PAGES[0])))
    assert {page.relative_to(ROOT).as_posix() for page in PAGES[1:]} <= links


def fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)


def shell_lines(page: Path) -> Iterator[str]:
    """Yield the commands of a page: lines of shell blocks, and code within sentences."""
    for block in fenced(page, "bash"):
        yield from block.replace("\\\n", " ").splitlines()
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", text):
        words = code.split()
        if code.startswith(OURS) and "X" not in words and len(words) > 1:
            yield code


def config_lines(config: Path) -> Iterator[str]:
    """Yield the commands in the comments of a configuration, with the lines that go on."""
    command = ""
    for line in [*text_of(config).splitlines(), ""]:
        words = line.strip().lstrip("#").strip() if line.strip().startswith("#") else ""
        if command and words.startswith("--"):
            command += f" {words}"
            continue
        if command:
            base = "vae.yaml" if command.startswith("ardiff-vae") else "dit.yaml"
            yield command.replace("...", f"--config {base}")
        command = words if words.startswith("ardiff") else ""


def make_lines() -> list[str]:
    """List the experiments that `make` runs."""
    found = ["make", "--dry-run", "demo", "reproduce", "bench-gpu"]
    shown = subprocess.run(found, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = [line.removeprefix(".venv/bin/") for line in shown.splitlines()]
    return [line for line in lines if line.startswith("python -m experiments.")]


def commands() -> list[Any]:
    """List every command with the name of the page that it stands on."""
    found = [(page, line) for page in PAGES for line in shell_lines(page)]
    found += [(ROOT / "Makefile", line) for line in make_lines()]
    for config in sorted(CONFIGS.rglob("*.yaml")):
        found += [(config, line) for line in config_lines(config)]
    split = [(page, shlex.split(line, comments=True)) for page, line in found]
    seen = {tuple(words): page for page, words in reversed(split) if words}
    assert len(seen) > 40
    return [pytest.param(list(w), id=f"{p.name}: {' '.join(w)[:60]}") for w, p in seen.items()]


class Kept(Exception):
    """Raised with the parser of a command, before anything is parsed."""


@cache
def stage_parser(name: str) -> ArgumentParser:
    """Build the parser of a stage, once."""

    def keep(_: object, parser: ArgumentParser, *__: object) -> NoReturn:
        raise Kept(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.StageCLI, "parse_arguments", keep)
        with pytest.raises(Kept) as kept:
            STAGES[name](["fit"])
    return kept.value.args[0]


def parse_stage(name: str, args: list[str]) -> None:
    assert args[0] in VERBS or args == ["--version"], args
    for option, value in pairwise(args):
        if option in ("--config", "--data"):
            assert (CONFIGS / value).is_file(), value
    if not SHOWN & set(args):
        stage_parser(name).parse_args(cli.find_configs(args))


@cache
def parser_of_tool(name: str) -> ArgumentParser:
    return tool_parser(find_tool(name))


def parse_module(name: str, args: list[str], patch: pytest.MonkeyPatch) -> None:
    """Parse the arguments of an experiment without running it."""

    def parse(component: Any, args: list[str], **options: Any) -> NoReturn:  # noqa: ANN401
        parser = auto_parser(component, **options)
        raise Kept(parser.parse_args(args))

    patch.setattr("experiments.command.auto_cli", parse)
    with pytest.raises(Kept):
        import_module(name).main(args)


@pytest.mark.parametrize("words", commands())
def test_commands_are_ones_that_the_parsers_accept(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = words[[("=" in word) for word in words].index(False) :]  # FLAG=1 command
    if words[0] in ("srun", "torchrun"):
        words = words[min(words.index(stage) for stage in STAGES if stage in words) :]
    program, *args = words
    if program in STAGES:
        parse_stage(program, args)
    elif program == "ardiff":
        assert args[0] in TOOLS
        if len(args) > 1:
            parser_of_tool(args[0]).parse_args(args[1:])
    elif words[:2] == ["python", "-m"] and words[2] != "pip":
        parse_module(words[2], words[3:], monkeypatch)
    elif program == "python":
        assert (ROOT / args[0]).is_file()
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", text_of(ROOT / "Makefile"), flags=re.MULTILINE)
        assert {word for word in args if "=" not in word} <= set(targets)
    else:
        assert program in ("pip", ".venv/bin/pip", "tensorboard")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_sentences_exist(page: Path) -> None:
    verbs: list[Any] = [stage_parser(name)._subcommands_action for name in STAGES]
    subparsers = [p for verb in verbs for p in verb._name_parser_map.values()]
    subparsers += [parser_of_tool(name) for name in TOOLS]
    known = {option for p in subparsers for option in p._option_string_actions}
    known |= SHOWN | THEIRS
    groups = {"--model", "--trainer", "--data"}
    for code in re.findall(r"`(--[^`\n]+)`", text_of(page)):
        for option in re.findall(r"(?:^| )(--[\w.-]+)", code):
            # options of a class, --protocol.frames, belong to the option that chooses the class
            parents = {option.rsplit(".", count)[0] for count in range(option.count(".") + 1)}
            assert parents & known - groups or option in groups, option


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_names_of_the_package_exist(page: Path) -> None:
    for code in re.findall(r"`([^`\n]+)`", text_of(page)):
        if re.fullmatch(r"(ardiffusion|experiments|tests|configs|docs)/[\w./-]*", code):
            assert (ROOT / code).exists(), code
        if re.fullmatch(r"ardiffusion(\.\w+)+", code):
            import_module(code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_pages_is_python_and_imports_what_there_is(page: Path) -> None:
    for block in fenced(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names)
