import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from ardiffusion.data.clips import resize_crop
from ardiffusion.data.layouts import find_clips
from ardiffusion.data.video import read_frames
from ardiffusion.files import only_writer
from ardiffusion.hub import load_arvae
from ardiffusion.tools.command import main
from ardiffusion.tools.reconstruct import there_and_back


def test_frames_are_encoded_and_decoded(tokenizer: Path, skies: Path) -> None:
    network = load_arvae(tokenizer).eval()
    exact = deepcopy(network).double()
    entry = find_clips(skies)[0]
    video = resize_crop(read_frames(skies / entry.path), network.resolution)
    with torch.no_grad():
        whole = exact.decode(exact.encode(video.double()[None] / 255))[0]
    naive = (whole.clamp(0, 1) * 255).round()
    found = torch.stack(list(there_and_back(network, video)))
    assert found.dtype == torch.uint8 and found.shape == video.shape
    assert (found.double() - naive).abs().max() <= 1  # rounding


def test_a_frame_that_is_not_finite_is_an_error(tokenizer: Path) -> None:
    network = load_arvae(tokenizer).eval()
    torch.nn.init.constant_(network.last_layer, torch.nan)
    side = network.resolution
    with pytest.raises(ValueError, match="A frame is not finite: the weights are broken"):
        list(there_and_back(network, torch.zeros(1, 3, side, side, dtype=torch.uint8)))


def test_files_mirror_the_folder_and_are_kept(
    tokenizer: Path, skies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [str(tokenizer), str(skies), str(tmp_path)]
    options = ["reconstruct", *places, "--frames", "2", "--limit"]
    main([*options, "2"])
    main([*options, "3"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == {"out": str(tmp_path), "videos": 3, "written": 1, "broken": []}
    wanted = [entry.path for entry in find_clips(skies)[:3]]
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.mp4")) == wanted
    assert len(read_frames(tmp_path / wanted[0])) == 2


def test_another_network_or_length_is_refused(
    tokenizer: Path, skies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [str(tokenizer), str(skies), str(tmp_path)]
    options = ["reconstruct", *places, "--limit", "1", "--frames"]
    main([*options, "2"])
    with pytest.raises(SystemExit) as exit_:
        main([*options, "3"])
    assert exit_.value.code == 2
    assert "holds reconstructions with frames 2, not 3; choose another" in capsys.readouterr().err


def test_broken_videos_are_left_out_and_listed(
    tokenizer: Path, skies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a.mp4").symlink_to(skies / find_clips(skies)[0].path)
    (videos / "b.mp4").write_bytes(b"nothing")
    (videos / "c.mp4").symlink_to("nowhere")
    main(["reconstruct", str(tokenizer), str(videos), str(tmp_path / "out")])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["written"] == 1 and "b.mp4 is broken or not" in result["broken"][0]
    assert "Cannot use " in result["broken"][1] and "c.mp4 (no such file" in result["broken"][1]
    (videos / "a.avi").symlink_to(skies / find_clips(skies)[1].path)
    with pytest.raises(SystemExit):
        main(["reconstruct", str(tokenizer), str(videos), str(tmp_path / "more")])
    assert "a.avi have the same name but for their suffix" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["none.ckpt", "none"], "There is no file or folder none.ckpt"),
        (["none.ckpt", "none", "--limit", "0"], "--limit must be at least 1, got 0."),
    ],
)
def test_bad_input_ends_with_one_sentence(
    options: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["reconstruct", *options[:2], str(tmp_path), *options[2:]])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


@pytest.fixture
def videos(skies: Path, tmp_path: Path) -> Path:
    """Three videos that may be changed."""
    (tmp_path / "videos").mkdir()
    for number, entry in enumerate(find_clips(skies)[:3]):
        shutil.copy(skies / entry.path, tmp_path / "videos" / f"{number}.mp4")
    return tmp_path / "videos"


Run = Callable[[Path], dict]


@pytest.fixture
def run(tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def reconstruct(videos: Path) -> dict:
        places = [str(tokenizer), str(videos), str(tmp_path / "out")]
        main(["reconstruct", *places, "--frames", "2"])
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return reconstruct


def test_what_has_changed_is_made_anew(run: Run, videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(videos)["written"] == 3
    assert run(videos)["written"] == 0
    before = {path.name: path.read_bytes() for path in out.glob("*.mp4")}
    shutil.copy(videos / "0.mp4", videos / "2.mp4")
    assert run(videos)["written"] == 1
    after = {path.name: path.read_bytes() for path in out.glob("*.mp4")}
    assert after["1.mp4"] == before["1.mp4"] and after["2.mp4"] == after["0.mp4"]
    assert after["2.mp4"] != before["2.mp4"]


def test_another_folder_counts_by_the_content_of_its_videos(
    run: Run, videos: Path, tmp_path: Path
) -> None:
    run(videos)
    other = tmp_path / "other"
    shutil.copytree(videos, other)  # keeps the times of the files
    shutil.copy(videos / "1.mp4", other / "0.mp4")
    result = run(other)
    assert result["written"] == 1 and "gone" not in result
    out = tmp_path / "out"
    assert (out / "0.mp4").read_bytes() == (out / "1.mp4").read_bytes()


@pytest.mark.parametrize("left", [0, 100, -9])
def test_a_reconstruction_that_is_cut_short_is_made_anew(
    run: Run, videos: Path, tmp_path: Path, left: int
) -> None:
    run(videos)
    file = tmp_path / "out" / "1.mp4"
    whole = file.read_bytes()
    file.write_bytes(whole[:left])
    assert run(videos)["written"] == 1
    assert file.read_bytes() == whole


def test_reconstructions_of_videos_that_are_gone_are_named(
    tokenizer: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reconstruct", str(tokenizer), str(videos), str(tmp_path / "out")]
    main(command)
    (videos / "1.mp4").unlink()
    main(command)
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1])["gone"] == ["1.mp4"]
    assert "does not hold any more, for example 1.mp4: delete them or" in captured.err
    (tmp_path / "out" / "1.mp4").unlink()
    main(command)
    assert "any more" not in capsys.readouterr().err


def test_a_folder_has_one_writer(
    tokenizer: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with only_writer(tmp_path), pytest.raises(SystemExit) as exit_:
        main(["reconstruct", str(tokenizer), str(videos), str(tmp_path)])
    assert exit_.value.code == 2
    assert f"Another process is writing into {tmp_path}: wait" in capsys.readouterr().err


def test_broken_notes_count_as_none(run: Run, videos: Path, tmp_path: Path) -> None:
    run(videos)
    notes = tmp_path / "out" / "reconstructions.jsonl"
    lines = notes.read_bytes().splitlines(keepends=True)
    notes.write_bytes(lines[0] + b"5\n\xff\n" + lines[1][:40] + b"\n" + lines[2])
    assert run(videos)["written"] == 1
