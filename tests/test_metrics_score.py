import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ardiffusion import __version__
from ardiffusion.metrics.features import Random3D
from ardiffusion.metrics.protocol import OfficialARDiffusion, StyleGANV
from ardiffusion.metrics.score import Score, check_comparable
from ardiffusion.tools.galleries.page import by_protocol

SCORE = Score(
    metric="frechet_random3d_16",
    value=12.3456789,
    interval=(10.5, 14.25),
    protocol=StyleGANV(extractor=Random3D()).describe(),
    real=2048,
    fake=256,
    split="train",
    stride=1,
    resolution=64,
    seeds={"generated": [0]},
    network={"name": "random3d", "hash": Random3D().hash},
    weights="0123456789abcdef",
    data={"real": "skies", "fake": "samples"},
    warnings=["Few."],
)


def test_is_the_same_after_a_round_trip_through_one_line_of_json(tmp_path: Path) -> None:
    path = tmp_path / "new" / "score.json"
    SCORE.save(path)
    assert path.read_text().count("\n") == 1
    assert json.loads(path.read_text()) == json.loads(json.dumps(asdict(SCORE)))
    assert Score.load(path) == SCORE
    replace(SCORE, interval=None, weights=None).save(path)
    assert Score.load(path).interval is None
    assert [file.name for file in path.parent.iterdir()] == ["score.json"]


def test_knows_the_versions_it_was_measured_with() -> None:
    assert {"python", "torch", "av"} < set(SCORE.versions)
    assert SCORE.versions["ardiffusion"] == __version__


def test_says_what_matters_in_one_line() -> None:
    line = SCORE.line()
    assert line.startswith(
        "frechet_random3d_16 = 12.3457 (95 %: 10.5 to 14.25), 2048 real and 256"
    )
    assert all(word in line for word in ("stride 1", "64 pixels", "split train", "StyleGANV"))
    assert "95 %" not in replace(SCORE, interval=None).line() and "\n" not in line


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_holds_no_number_that_is_none(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"random3d_16 came out as (nan|inf) .* no score: look"):
        replace(SCORE, value=wrong)
    with pytest.raises(ValueError, match=r"came out as 12\.3456789 with the interval \(1\.0, "):
        replace(SCORE, interval=(1.0, wrong))


@pytest.mark.parametrize(
    "change",
    [
        {"value": "3"},
        {"value": None},
        {"value": True},
        {"value": 10**400},
        {"value": float("nan")},
        {"interval": 5},
        {"interval": [1.0]},
        {"interval": [1.0, 2.0, 3.0]},
        {"interval": ["1", "2"]},
        {"real": 2.5},
        {"fake": [256]},
        {"split": None},
        {"protocol": "StyleGANV"},
        {"protocol": {}},
        {"network": {"name": 5}},
        {"data": []},
        {"data": {"size": 64}},
        {"weights": 7},
        {"warnings": "Few."},
        {"warnings": [1]},
        {"seeds": None},
        {"more": 1},
    ],
)
def test_a_record_of_other_types_is_named(tmp_path: Path, change: dict) -> None:
    path = tmp_path / "score.json"
    path.write_text(json.dumps(asdict(SCORE) | change))
    with pytest.raises(ValueError, match=r"score\.json holds no score: give files that"):
        Score.load(path)


def test_a_whole_number_is_a_value(tmp_path: Path) -> None:
    path = tmp_path / "score.json"
    path.write_text(json.dumps(asdict(SCORE) | {"value": 3, "interval": [1, 5]}))
    assert Score.load(path).value == 3


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[1]", "5", "null", "no json", '{"interval": null, "x": 1}', "[" * 100_000],
)
def test_a_file_without_a_score_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"other\.json holds no score: give files"):
        Score.load(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.json", "No such file"), (tmp_path, "a folder")):
        with pytest.raises(OSError, match=reason) as error:
            Score.load(path)
        assert str(error.value).startswith(f"Cannot read {path} (")


def test_frames_that_are_not_square_do_not_compare_with_square_ones() -> None:
    square, wide = (replace(SCORE, data={"size": size}) for size in ([64, 64], [64, 96]))
    check_comparable([SCORE, square])
    check_comparable([wide, wide])
    for one in (SCORE, square):
        with pytest.raises(ValueError, match=r"size is \[64, 64\] in the one and \[64, 96\] in"):
            check_comparable([one, wide])
    assert len(by_protocol([SCORE, square, wide])) == 2


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Cannot write .*score\.json"):
        SCORE.save(tmp_path / "file" / "score.json")


def test_scores_measured_alike_compare_whatever_made_them() -> None:
    other = replace(SCORE, value=3.0, interval=None, weights="other", seeds={}, data={})
    check_comparable([SCORE, other, SCORE])
    check_comparable([])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"metric": "fvd_16"}, "metric is 'frechet_random3d_16' in the one and 'fvd_16'"),
        ({"real": 200}, "real is 2048 in the one and 200 in"),
        ({"fake": 255}, "fake is 256 in the one and 255 in"),
        ({"split": "test"}, "split is 'train' in the one and 'test'"),
        ({"resolution": 256}, "resolution is 64 in the one and 256"),
        ({"stride": 8}, "stride is 1 in the one and 8"),
        (
            {"protocol": StyleGANV(extractor=Random3D(seed=1)).describe()},
            f"protocol.network_hash is '{Random3D().hash}' in the one",
        ),
        (
            {"protocol": OfficialARDiffusion(extractor=Random3D()).describe()},
            "protocol.name is 'StyleGANV' in the one and 'ARDiffusion' in the other",
        ),
    ],
)
def test_scores_measured_otherwise_do_not(change: dict, told: str) -> None:
    with pytest.raises(ValueError) as error:
        check_comparable([SCORE, SCORE, replace(SCORE, **change)], names=["a", "b", "c"])
    assert str(error.value).startswith("a and c do not compare, because ")
    assert told in str(error.value) and str(error.value).endswith(": measure both alike.")
