"""What the tools say of input that they can do nothing with: one sentence, exit code 2."""

import os
import re
import shlex
from pathlib import Path

import pytest

from ardiffusion.tools.command import main
from ardiffusion.tools.videos import videos

FVD = "fvd CLIPS CLIPS --protocol EveryClip --protocol.extractor Random3D"
BAD: dict[str, str] = {  # the command, and what its sentence says
    f"{FVD} --resolution 0": "--resolution must be at least 1, got 0",
    f"{FVD} --resolution nan": "--resolution is nan, expected: int",
    f"{FVD} --bootstrap -1": "--bootstrap must be at least 0, got -1",
    f"{FVD} --seed 99999999999999999999": "--seed must be at most",
    f"{FVD} --device meta": "--device is 'meta', which is not here",
    f"{FVD} --device cuda:77": "--device is 'cuda:77', which is not here",
    f"{FVD} --output ''": "--output is '', which names no file",
    f"{FVD} --output PIPE": "which names no file",
    f"{FVD} --lpips maybe": "--lpips is maybe, expected: bool",
    f"{FVD} --protocol.frames 0": "frames of a protocol must be at least 1, got 0",
    f"{FVD} --protocol.nope 1": "'nope' is not accepted",
    f"{FVD} --config PIPE": "PIPE is no configuration",
    f"{FVD} --config LATIN": "LATIN is no configuration",
    f"{FVD} --config EMPTY": "EMPTY is no configuration",
    f"{FVD} --config BRACKET": r"line \d+ is no YAML",
    f"{FVD} --config DEEP": "DEEP is no configuration",
    "fvd CLIPS CLIPS --protocol Foo": "--protocol is Foo, expected: EveryClip, Official",
    "fvd CLIPS CLIPS --protocol os.system": "--protocol is os.system, expected: EveryClip",
    "fvd CLIPS CLIPS --protocol []": r"--protocol is \[\], expected: EveryClip",
    "fvd '' CLIPS": "REAL is empty",
    "fvd CLIPS PIPE": "Data folder PIPE does not exist",
    "fvd CLIPS": "fvd.generated",
    "scores": "scores.files",
    "scores PIPE": r"Cannot read PIPE \(a pipe, a device or a folder\)",
    "scores NOWHERE": "Cannot read NOWHERE",
    "scores DEEP": "DEEP holds no score",
    "scores LATIN": "LATIN holds no score",
    "scores EMPTY": "EMPTY holds no score",
    "reconstruct PIPE CLIPS out": "There is no file or folder PIPE",
    "reconstruct EMPTY CLIPS out": "EMPTY holds no weights",
    "reconstruct EMPTY CLIPS ''": "OUT is empty",
    "reconstruct EMPTY '' out": "VIDEOS is empty",
    "reconstruct EMPTY CLIPS out --frames 0": "--frames must be at least 1, got 0",
    "reconstruct hf://a/b/../../c CLIPS out": "is not of the form hf://",
    "gallery ''": "There is nothing to show",
    "gallery x.html --figures [EMPTY]": "EMPTY is no PNG, JPEG or WebP file",
    "gallery x.html --figures [PIPE]": "Figure PIPE does not exist",
    "gallery x.html --scores [PIPE]": "Score PIPE does not exist",
    "gallery x.html --columns {a:PIPE}": "--columns is|PIPE does not exist",
    "gallery '' --figures [LATIN]": "LATIN is no PNG",
    "stability": "stability.runs",
    "stability NOWHERE": "There is no folder NOWHERE",
    "stability BROKEN": "stability.jsonl is not what a run logs",
    "stability PIPES": "PIPES holds no finite loss",
    "stability BROKEN --window 3": "--window must be at least 4, got 3",
    "stability BROKEN --window 100000000000": "--window must be at most",
    "stability BROKEN --height nan": "--height is nan, expected: float",
    "stability BROKEN --output /": "--output is '/', which names no file",
    "export PIPE out": "There is no file or folder PIPE",
    "export EMPTY ''": "TARGET is empty",
    "export EMPTY out": "EMPTY holds no weights",
    "videos ''": "OUT is empty",
    "videos out --videos 0": "--videos must be at least 1, got 0",
    "videos out --frames 100000000000": "--frames must be at most",
    "videos out --resolution 1": "--resolution must be at least 2, got 1",
    "videos out --resolution 100001": "--resolution must be at most",
    "videos out --seed 99999999999999999999": "--seed must be at most",
    "videos out --kind Foo": "--kind is Foo, expected: Literal",
    "live NOWHERE --port 0": "--port must be at least 1, got 0",
    "live NOWHERE --fps nan": "--fps is nan, expected: float",
    "live NOWHERE --plan Foo": "--plan is Foo, expected: AD, FIFO, FixedPlan",
    "live NOWHERE --device tpu9": "--device is 'tpu9', which is not here",
    "nope": "invalid choice: 'nope'",
    "--nope": "unrecognized arguments: --nope",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with little that is good."""
    place = tmp_path_factory.mktemp("bad")
    videos(str(place / "CLIPS"), videos=2, frames=16, resolution=16)
    os.mkfifo(place / "PIPE")
    (place / "LATIN").write_bytes(b'{"a": "\xe4"}')
    (place / "EMPTY").touch()
    (place / "BRACKET").write_text("a: [1,\n2")
    (place / "DEEP").write_text("[" * 100_000)
    for name, make in (("BROKEN", lambda log: log.write_text("{}\n")), ("PIPES", os.mkfifo)):
        (place / name).mkdir()
        make(place / name / "stability.jsonl")
    return place


@pytest.mark.parametrize("command", BAD)
def test_bad_input_of_a_tool_ends_with_one_sentence(
    command: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    before = {path.name for path in place.iterdir()}
    with pytest.raises(SystemExit, match="2"):
        main(shlex.split(command))
    said = capfd.readouterr().err
    *_, last = said.splitlines()
    assert last.startswith("error: ") and re.search(BAD[command], last), last
    assert said.count("error: ") == 1 and "Traceback" not in said
    assert {path.name for path in place.iterdir()} - before <= {"out"}
