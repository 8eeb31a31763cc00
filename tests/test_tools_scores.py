import json
from dataclasses import replace
from pathlib import Path

import pytest

from ardiffusion.metrics.features import Random3D
from ardiffusion.metrics.protocol import StyleGANV
from ardiffusion.metrics.score import Score
from ardiffusion.tools.command import main

NETWORK = Random3D(width=1)
SCORE = Score(
    metric="frechet_random3d_16",
    value=3.5,
    protocol=StyleGANV(extractor=NETWORK).describe(),
    real=256,
    fake=256,
    split="train",
    stride=1,
    resolution=64,
    network={"name": "random3d", "hash": NETWORK.hash},
)


def save(folder: Path, **scores: Score) -> list[str]:
    for name, score in scores.items():
        score.save(folder / f"{name}.json")
    return [str(folder / f"{name}.json") for name in scores]


def test_scores_are_sorted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    better = replace(SCORE, value=1.25, interval=(1.0, 1.5), weights="abc", warnings=["a", "b"])
    files = save(tmp_path, worst=replace(SCORE, value=9.0), best=better, middle=SCORE)
    main(["scores", *files])
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])["scores"]
    assert [(row["file"], row["value"]) for row in result] == [
        (files[1], 1.25),
        (files[2], 3.5),
        (files[0], 9.0),
    ]
    table = printed[: printed.index('{"scores"')]
    assert table.index("1.2500") < table.index("3.5000") < table.index("9.0000")
    assert "1 to 1.5" in table and "abc" in table


def test_protocols_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = StyleGANV(stride=8, extractor=NETWORK)
    files = save(tmp_path, a=SCORE, b=SCORE, c=replace(SCORE, protocol=other.describe()))
    with pytest.raises(SystemExit) as exit_:
        main(["scores", *files])
    assert exit_.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == (
        f"error: {files[0]} and {files[2]} do not compare, because protocol.stride is 1 in the "
        "one and 8 in the other: measure both alike.\n"
    )
    assert not captured.out


def test_a_file_without_score_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("[]")
    for file in (tmp_path / "x.json", tmp_path / "none.json"):
        with pytest.raises(SystemExit) as exit_:
            main(["scores", str(file)])
        assert exit_.value.code == 2
        error = capsys.readouterr().err
        assert str(file) in error and error.count("\n") == 1


def test_brackets_in_names_are_no_markup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path, **{"[x]": replace(SCORE, data={"fake": "[/y]"})})
    main(["scores", "[x].json"])
    table, _, _ = capsys.readouterr().out.partition('{"scores"')
    assert "[x].json" in table and "[/y]" in table
