import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from ardiffusion.files import (
    append_json_lines,
    atomic_write,
    has_type,
    host_name,
    only_writer,
    read_json_lines,
    write_json,
    write_tensors,
)


def dead_process() -> int:
    """Return the number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_json(path, {"b": 1})
    with pytest.raises(RuntimeError, match="broke off"), atomic_write(path) as partial:
        partial.write_text("half")
        raise RuntimeError("broke off")
    assert json.loads(path.read_text()) == {"b": 1}
    assert os.listdir(path.parent) == ["a.json"]


def test_what_dead_processes_left_is_removed_by_the_next_writer(tmp_path: Path) -> None:
    dead = dead_process()
    gone = [f".last.ckpt.{dead}.tmp", f".step=3.ckpt.{host_name()}-{dead}.tmp"]
    kept = [f".a.mp4.{os.getpid()}.tmp", f".b.mp4.elsewhere-{dead}.tmp", ".c.tmp", "d.1.tmp"]
    for name in [*gone, *kept]:
        (tmp_path / name).touch()
    write_json(tmp_path / "a.json", [])
    assert set(os.listdir(tmp_path)) == {"a.json", *kept}


def test_a_failure_to_write_names_the_file_and_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Cannot write .*file/a\.json \(.*\): free some space"):
        write_json(tmp_path / "file" / "a.json", {})


def test_what_cannot_be_written_is_named_in_one_line_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("two\nlines", os.fsdecode(b"caf\xe9")):
        with pytest.raises(OSError, match="Cannot write") as raised:
            write_json(tmp_path / "file" / name, {})
        assert str(raised.value).isprintable() and raised.value.errno


def test_tensors_are_as_readable_as_other_files(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", {"x": torch.arange(6.0).view(2, 3).T}, {"k": "v"})
    (tmp_path / "other").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"k": "v"}
        assert torch.equal(file.get_tensor("x"), torch.arange(6.0).view(2, 3).T)


def test_lines_survive_one_that_was_cut_short(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert read_json_lines(log) == []
    append_json_lines(log, [{"a": 1}, {"a": "one\u2028two"}])
    log.write_bytes(log.read_bytes() + b'{"a": 3, "half')
    append_json_lines(log, [{"a": 4}])
    log.write_bytes(log.read_bytes() + b'5\nnull\n[]\n"x"\n\xff\n')
    assert read_json_lines(log) == [{"a": 1}, {"a": "one\u2028two"}, {"a": 4}]


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    code = (
        "import sys; from ardiffusion.files import only_writer\n"
        f"with only_writer({str(folder)!r}): print('mine', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "mine\n"
    with pytest.raises(OSError, match=r"Another process is writing into .*runs: wait until"):
        with only_writer(folder):
            pass
    other.communicate("")
    with only_writer(folder):
        pass
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        *((1.5, float), (1, float), (True, bool), (None, int | None), (2, int | None)),
        *(((1, 2.5), tuple[float, float]), ((1.0, 2.0), tuple[float, float] | None)),
        *(({"a": [None, {}]}, dict[str, Any]), ({}, dict[str, str]), ([], list[str])),
    ],
)
def test_values_of_a_type_are_recognised(value: object, kind: object) -> None:
    assert has_type(value, kind)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        *((1.0, int), (True, int), (True, float), ("1", float), (None, str), (1.5, int | None)),
        *(((1.0,), tuple[float, float]), ([1.0, 2.0], tuple[float, float])),
        *(((1.0, "2"), tuple[float, float]), ({"a": 1}, dict[str, str]), ([1], list[str])),
        *(([], dict[str, Any]), ({}, list[str]), ((), list[str])),
    ],
)
def test_values_of_another_type_are_not(value: object, kind: object) -> None:
    assert not has_type(value, kind)
