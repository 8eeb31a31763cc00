import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from ardiffusion.data.clips import resize_crop
from ardiffusion.data.layouts import find_clips
from ardiffusion.data.video import read_frames
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
    main(["reconstruct", str(tokenizer), str(videos), str(tmp_path / "out")])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["written"] == 1 and "b.mp4" in result["broken"][0]
    (videos / "a.avi").symlink_to(skies / find_clips(skies)[1].path)
    with pytest.raises(SystemExit):
        main(["reconstruct", str(tokenizer), str(videos), str(tmp_path / "more")])
    assert "nothing but the end of their name" in capsys.readouterr().err


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
