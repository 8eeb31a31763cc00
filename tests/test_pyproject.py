import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = {
    "transformers",  # asks for a later huggingface_hub than the oldest
    "playwright",  # drives only the Chromium of its time
    "gradio",  # asks for pillow<13; tried with the versions of .github/live.txt
    "litdata",  # brings torchvision; tried with the versions of .github/stream.txt
    "torchvision",
    "ruff",
    "pyright",
    "ardiffusion",  # the extras themselves
}


def shortest(version: str) -> str:
    return re.sub(r"(\.0)+$", "", version)


def test_continuous_integration_tries_the_oldest_versions_that_are_admitted() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = {}
    for requirement in [*project["dependencies"], *(r for extra in extras for r in extra)]:
        name, *_, bound = re.match(r"(\w+)(\[.*\])?(?:>=([\d.]+))?", requirement).groups()  # pyright: ignore[reportOptionalMemberAccess]
        if name not in LEFT_OUT:
            wanted[name] = shortest(bound)
    lines = (ROOT / ".github" / "oldest.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    assert {name: shortest(version) for name, version in pins} == wanted
