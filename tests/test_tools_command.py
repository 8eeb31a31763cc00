import json
import subprocess
import sys
from inspect import getdoc
from pathlib import Path

import pytest

from ardiffusion import __version__
from ardiffusion.tools.command import TOOLS, find_tool, main

SMALL = ["--videos", "1", "--frames", "2", "--resolution", "16"]


def python(*args: str) -> str:
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True, check=True)
    return done.stdout


def test_help_names_all_tools_without_importing_them() -> None:
    code = "import sys; from ardiffusion.tools.command import main\n"
    code += "try: main(['--help'])\nfinally: print({'torch', 'numpy'} & sys.modules.keys())"
    first, *others, heavy = python("-c", code).splitlines()
    assert first == "Tools over videos, scores, runs and models of AR-Diffusion."
    assert {line.split()[0] for line in others if line.strip()} >= TOOLS.keys()
    assert heavy == "set()"


def test_a_tool_whose_name_is_a_value_is_not_imported() -> None:
    code = "import sys; from ardiffusion.tools.command import main\n"
    code += "try: main(['scores', 'videos', 'fvd'])\nexcept SystemExit as end: print(end.code)\n"
    code += (
        "print({f'ardiffusion.tools.{t}' for t in ('scores', 'videos', 'fvd')} & {*sys.modules})"
    )
    assert python("-c", code) == "2\n{'ardiffusion.tools.scores'}\n"


def test_help_of_a_tool_waits_for_no_lightning() -> None:
    code = "import sys; from ardiffusion.tools.command import main\n"
    code += "try: main(['stability', '--help'])\nfinally: print('lightning' in sys.modules)"
    assert python("-c", code).splitlines()[-1] == "False"


def test_package_is_the_command_too() -> None:
    assert python("-m", "ardiffusion", "--version") == f"ardiff {__version__}\n"


@pytest.mark.parametrize("name", TOOLS)
def test_help_of_a_tool_is_its_docstring(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    about, _, arguments = (getdoc(find_tool(name)) or "").partition("\n\nArgs:\n")
    printed = capsys.readouterr().out
    assert exit_.value.code == 0 and printed.startswith(about)
    described = " ".join(printed.split())
    assert all(" ".join(line.split()[1:]) in described for line in arguments.splitlines()[:2])


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], 'expected "tool" to be one of {fvd,'),
        (["fbd"], "invalid choice: 'fbd'"),
        (["scores"], "the following arguments are required: scores.files (--help lists all"),
        (["fvd", "a", "b", "--nope", "3"], "unrecognized arguments: --nope 3 (--help"),
        (["videos", "out", "--videos", "x"], "--videos is x, expected: int (--help"),
        (["videos", "file/out"], "(not a directory): check the path, its permissions"),
    ],
)
def test_bad_input_ends_with_one_sentence(
    args: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(SystemExit) as exit_:
        main(args)
    *_, error = capfd.readouterr().err.splitlines()
    assert exit_.value.code == 2 and error.startswith("error: ") and sentence in error


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ValueError, match="--videos must be"):
        main(["videos", "out", "--videos", "0", "--debug"])


def test_options_may_stand_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "options.yaml").write_text("kind: shapes\nseed: 3")
    main(["videos", str(tmp_path / "out"), "--config", str(tmp_path / "options.yaml"), *SMALL])
    assert json.loads(capsys.readouterr().out)["classes"] == ["circle", "square", "triangle"]


def test_first_process_alone_prints_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    main(["videos", str(tmp_path), *SMALL])
    assert not capsys.readouterr().out
