import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ardiffusion"
FILES = sorted(PACKAGE.rglob("*.py"))
# Which rooms a room may import besides itself: imports point down, never up, never in a circle.
GROUND = ("files", "nn", "diffusion")
ROOMS = {
    "files": (),
    "nn": ("files",),
    "diffusion": ("files",),
    "data": ("files",),
    "metrics": ("files", "nn"),
    "published": GROUND,
    "weights": GROUND,
    "convert": (*GROUND, "published", "weights"),
    "sources": (*GROUND, "published", "weights", "convert"),
    "hub": (*GROUND, "published", "weights", "sources"),
}
ROOMS["generator"] = tuple(ROOMS)
ROOMS["training"] = tuple(ROOMS)
ROOMS["tools"] = tuple(ROOMS)
ROOMS["cli"] = tuple(ROOMS)
ROOMS["__main__"] = ("tools",)
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc"}


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def layer(module: str) -> str:
    """Name the folder or file of ardiffusion that a module belongs to."""
    return [*module.split("."), ""][1]


@cache
def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(file: Path) -> Iterator[str]:
    """List what a file imports, wherever it does."""
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file} imports by a relative path"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_point_down() -> None:
    ours = [(f, name) for f in FILES for name in imports(f) if name.startswith("ardiffusion.")]
    assert len(ours) > 100
    pairs = {(layer(module_of(f)), layer(n)) for f, n in ours}
    known = {own for own, _ in pairs} <= ROOMS.keys()
    assert known and {(own, other) for own, other in pairs if other == "experiments"} == set()
    assert [(a, b) for a, b in pairs if a != b and b not in ROOMS[a] and b != "__version__"] == []


def test_only_training_tools_and_the_command_line_know_lightning() -> None:
    knowing = {
        layer(module_of(file))
        for file in FILES
        for name in imports(file)
        if name.split(".")[0] in ("lightning", "pytorch_lightning", "lightning_fabric")
    }
    assert {"training", "cli"} <= knowing <= {"training", "cli", "tools"}


@pytest.mark.parametrize(
    "banned", ["torchvision", "moviepy", "decord", "cv2", "pytorch_lightning"]
)
def test_banned_packages_are_not_imported(banned: str) -> None:
    assert [f for f in FILES if banned in {n.split(".")[0] for n in imports(f)}] == []


def test_files_are_short_and_named_after_what_they_hold() -> None:
    assert [f for f in FILES if len(f.read_text(encoding="utf-8").splitlines()) > 250] == []
    assert [f for f in FILES if f.stem in VAGUE] == []
    silent = [f for f in FILES if f.stat().st_size and not ast.get_docstring(parse(f))]
    assert silent == []


def test_functions_are_short() -> None:
    long = []
    for file in FILES:
        for node in ast.walk(parse(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                first, last = (body or node.body)[0].lineno, node.end_lineno or 0
                long += [f"{module_of(file)}.{node.name}"] if last - first >= 40 else []
    assert long == []
