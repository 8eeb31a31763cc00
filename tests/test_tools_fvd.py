import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from numbered import write_numbered
from PIL import Image
from torch import Tensor

from ardiffusion.data.samples import SampleLog, read_sample_log, read_samples
from ardiffusion.data.video import read_frames
from ardiffusion.data.writer import write_video
from ardiffusion.files import only_writer
from ardiffusion.metrics.evaluation import evaluate
from ardiffusion.metrics.features import Random3D
from ardiffusion.metrics.frechet import frechet_distance, moments
from ardiffusion.metrics.fvd import FrechetVideoDistance
from ardiffusion.metrics.i3d import I3DTorchScript
from ardiffusion.metrics.image import psnr, ssim
from ardiffusion.metrics.parallel import local_device
from ardiffusion.metrics.protocol import Clip, StyleGANV
from ardiffusion.metrics.score import Score
from ardiffusion.tools import fvd, pairs, video_folder
from ardiffusion.tools.command import main
from ardiffusion.tools.video_folder import VideoFolder, compression_differs

SMALL = ["--protocol", "StyleGANV", "--protocol.extractor", "Random3D"]
SMALL += ["--protocol.extractor.width", "1", "--bootstrap", "5", "--split", "train"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def video(seed: int, frames: int = 16, height: int = 16, width: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(frames, 3, 4, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (fine * 255).byte()


def write(folder: Path, videos: int = 3, seed: int = 0, **options: int) -> Path:
    folder.mkdir()
    for i in range(videos):
        write_video(folder / f"{i:03d}.mp4", video(seed + i, **options))
    return folder


def write_pictures(folder: Path, suffix: str, seed: int = 0, high: int = 255) -> Path:
    for i in range(3):
        (folder / f"{i:03d}").mkdir(parents=True)
        for f, frame in enumerate(rearrange(video(seed + i), "f c h w -> f h w c").numpy()):
            picture = Image.fromarray(frame // (256 // (high + 1)))
            picture.save(folder / f"{i:03d}" / f"{f}.{suffix}")
    return folder


def measured(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[dict, str]:
    main(["fvd", *map(str, args)])
    captured = capsys.readouterr()
    return json.loads(captured.out.splitlines()[-1]), captured.out + captured.err


def test_command_records_what_the_score_depends_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real, fake = write(tmp_path / "real", 5), write(tmp_path / "fake", 4, seed=100)
    lines = [
        {"file": f"{i:03d}.mp4", "index": i, "seed": 7, "label": None, "steps": 50, "model": "abc"}
        for i in range(4)
    ]
    log = "\n".join(map(json.dumps, lines)) + '\n{"cut": '
    (fake / "samples.jsonl").write_text(log)
    result, printed = measured(capsys, real, fake, *SMALL, "--output", tmp_path / "s.json")
    network = Random3D(width=1)
    stats = []
    for folder in (real, fake):
        clips = [read_frames(path) for path in sorted(folder.glob("*.mp4"))]
        stats += moments(torch.cat([network(clip[None]) for clip in clips]))
    expected = frechet_distance(*stats).item()
    assert result["value"] == pytest.approx(expected, rel=1e-9)
    assert Score.load(tmp_path / "s.json").line() in printed.splitlines()
    assert json.loads((tmp_path / "s.json").read_text()) | {"kernel": result["kernel"]} == result
    assert result["metric"] == "frechet_random3d_16" and result["resolution"] == 16
    assert (result["real"], result["fake"], result["split"]) == (5, 4, "train")
    assert result["weights"] == "abc"
    assert result["seeds"] == {"protocol": 0, "bootstrap": 0, "generated": [7]}
    assert result["data"] == {
        "real": "real",
        "fake": "fake",
        "size": [16, 16],
        "sampling": {"steps": 50},
    }
    assert f"warning: {result['warnings'][0]}" in printed and str(tmp_path) not in str(result)


def test_another_distance_is_taken_for_no_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def three(*args: Any, **options: Any) -> list[Score]:  # noqa: ANN401
        scores = evaluate(*args, **options)
        return [*scores, replace(scores[1], metric="other_random3d_16", value=5.0)]

    monkeypatch.setattr(fvd, "evaluate", three)
    folders = write(tmp_path / "real"), write(tmp_path / "fake", seed=9)
    result, _ = measured(capsys, *folders, *SMALL, "--paired", "true", "--lpips", "false")
    assert (result["metric"], result["other"]["value"]) == ("frechet_random3d_16", 5.0)
    assert result["kernel"]["metric"] == "kernel_random3d_16"
    assert [pair["metric"] for pair in result["paired"]] == ["psnr", "ssim"]


def test_second_run_reads_features_from_the_cache(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real, fake = write(tmp_path / "real"), write(tmp_path / "fake", seed=9)
    first, _ = measured(capsys, real, fake, *SMALL)
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    assert len(kept) == 2 and all(path.parts[-3] == "features" for path in kept)
    again, _ = measured(capsys, real, fake, *SMALL)
    assert again == first
    assert kept == {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    os.utime(fake / "001.mp4", ns=(1, 1))
    measured(capsys, real, fake, *SMALL, "--cache", str(cache / "ardiffusion" / "features"))
    assert len(list(cache.rglob("*.safetensors"))) == 3


def test_protocol_and_resolution_are_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = write(tmp_path / "real", height=24, width=20, frames=20)
    fake = write(tmp_path / "fake", seed=9)
    options = [*SMALL[2:], "--protocol.frames", "8", "--protocol.clip_stride", "2"]
    options = ["--protocol", "OfficialARDiffusion", *options, "--resolution", "16"]
    result, _ = measured(capsys, real, fake, *options)
    assert result["protocol"]["name"] == "ARDiffusion" and result["protocol"]["frames"] == 8
    assert (result["real"], result["fake"], result["resolution"]) == (3 * 7, 3, 16)


def test_pairs_are_compared_frame_by_frame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Distance:
        """In the place of LPIPS, whose network would be downloaded."""

        def load(self) -> None: ...

        def __call__(self, x: Tensor, y: Tensor) -> Tensor:
            assert 0 <= x.min() and x.max() <= 1
            return (x - y).abs().mean(dim=(1, 2, 3))

    monkeypatch.setattr(pairs, "LPIPS", Distance)
    real, fake = (
        write(tmp_path / "real", 4, frames=20),
        write_pictures(tmp_path / "fake", "png", 1),
    )
    result, printed = measured(capsys, real, fake, *SMALL, "--paired", "true")
    expected: dict[str, list[float]] = {"psnr": [], "ssim": [], "lpips": []}
    for i in range(3):
        x, y = read_frames(real / f"{i:03d}.mp4", frames=16), read_frames(fake / f"{i:03d}")
        expected["psnr"].append(psnr(x, y).double().mean().item())
        expected["ssim"].append(ssim(x, y).mean().item())
        difference = (x.double() - y.double()).abs() / 255
        expected["lpips"].append(difference.mean().item())
    assert [pair["metric"] for pair in result["paired"]] == list(expected)
    for pair in result["paired"]:
        assert pair["value"] == pytest.approx(np.mean(expected[pair["metric"]]), rel=1e-5)
        assert pair["interval"][0] <= pair["value"] <= pair["interval"][1]
        assert (pair["real"], pair["protocol"]["frames"]) == (3, 16)
        assert any("1 videos have none of the same path" in w for w in pair["warnings"])
        assert any("Some pairs differ in length" in w for w in pair["warnings"])
        assert Score.load(f"score.{pair['metric']}.json").value == pair["value"]
    assert "ssim = " in printed
    without, _ = measured(capsys, real, fake, *SMALL, "--paired", "true", "--lpips", "false")
    assert [pair["metric"] for pair in without["paired"]] == ["psnr", "ssim"]
    assert without["paired"][0]["data"]["size"] == [16, 16]
    monkeypatch.setattr(pairs, "PART", 7)
    parted, _ = measured(capsys, real, fake, *SMALL, "--paired", "true", "--lpips", "false")
    for one, other in zip(without["paired"], parted["paired"], strict=True):
        assert one["value"] == pytest.approx(other["value"], rel=1e-12)


def test_pairs_that_compare_as_no_number_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = torch.full((16,), torch.nan)
    monkeypatch.setattr(pairs, "load_lpips", lambda: lambda real, fake: wrong)
    real, fake = write(tmp_path / "real", 2), write(tmp_path / "fake", 2, seed=9)
    with pytest.raises(SystemExit):
        main(["fvd", str(real), str(fake), *SMALL, "--paired", "true"])
    error = capsys.readouterr().err
    assert f"{real}/000.mp4 and its pair compare as" in error and "'lpips': nan}: check" in error
    assert not Path("score.json").exists()


def test_a_pair_is_read_in_parts(tmp_path: Path) -> None:
    folder = VideoFolder(write(tmp_path / "real", 1, frames=20), resolution=12)
    parts = list(folder.parts(0, frames=18, part=7))
    assert [len(part) for part in parts] == [7, 7, 4]
    assert torch.equal(torch.cat(parts), folder.read(0, 0, frames=18))


def test_clips_are_called_by_the_whole_names_of_their_videos(tmp_path: Path) -> None:
    path = write(tmp_path / "real", 1) / "000.mp4"
    path.rename(path.with_name("at 12:30:00.mp4"))
    videos = VideoFolder(tmp_path / "real").videos(StyleGANV(extractor=Random3D(width=1)))
    called = videos.clip_names([Clip(video=0, start=4)])
    assert called == [f"{tmp_path}/real, at 12:30:00.mp4, frame 4 on"]
    (key,) = videos.clip_keys([Clip(video=0, start=4)])  # by which features are kept
    assert key.startswith("at 12:30:00.mp4:1:") and key.endswith(":4")


def test_broken_videos_are_not_said_to_have_no_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real, fake = write(tmp_path / "real", 3), write(tmp_path / "fake", 3, seed=9)
    (real / "002.mp4").write_text("broken")
    (fake / "002.mp4").unlink()
    result, _ = measured(capsys, real, fake, *SMALL, "--paired", "true", "--lpips", "false")
    told = " ".join(result["paired"][0]["warnings"])
    assert "1 videos of" in told and "cannot be read" in told and "of the same path" not in told


def test_a_single_pair_has_no_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real, fake = write(tmp_path / "real", 2), write(tmp_path / "fake", 2, seed=9)
    (fake / "001.mp4").rename(fake / "other.mp4")
    result, _ = measured(capsys, real, fake, *SMALL, "--paired", "true", "--lpips", "false")
    for pair in result["paired"]:
        assert pair["real"] == 1 and pair["interval"] is None
        assert any("single video" in warning for warning in pair["warnings"])


def test_each_process_of_torchrun_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert local_device("cuda") == "cuda"
    found = []
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        found.append([local_device(device) for device in ("cuda", "cuda:1", "cpu")])
    assert found == [[f"cuda:{rank}", "cuda:1", "cpu"] for rank in (0, 1, 0)]


def test_the_last_line_of_each_file_counts(tmp_path: Path) -> None:
    lines: list[object] = [
        {"file": "a.mp4", "seed": 1, "model": "old", "steps": 5},
        {"file": "b.mp4", "seed": 2, "model": "new", "steps": 9},
        ["no object"],
        {"seed": 7},
        {"file": "a.mp4", "seed": 3, "model": "new", "steps": 9, "fps": None},
    ]
    log = tmp_path / "samples.jsonl"
    log.write_text("\n".join(map(json.dumps, lines)) + '\n{"file": "c')
    assert read_samples(tmp_path) == {"a.mp4": lines[4], "b.mp4": lines[1]}
    assert read_sample_log(tmp_path) == SampleLog([2, 3], models=["new"], settings={"steps": 9})
    log.unlink()
    log.mkdir()
    assert read_samples(tmp_path) == read_samples(tmp_path / "none") == {}
    assert read_sample_log(tmp_path) == SampleLog([], models=[], settings={})


def test_large_folders_are_told_apart_by_videos_spread_over_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    png, mixed = write_pictures(tmp_path / "a", "png"), write_pictures(tmp_path / "b", "png")
    late_jpeg(mixed)
    write_video(mixed / "003.mp4", video(0))
    folders = [VideoFolder(folder) for folder in (png, mixed)]
    assert folders[1].encodings() == ["h264", "jpg", "png"]
    monkeypatch.setattr(video_folder, "LOOKED_AT", 2)
    assert folders[1].encodings() == ["jpg", "png"]  # of 000 and 002
    told = compression_differs(*folders)
    assert (
        told is not None and "as jpg, png (by at most 2 videos spread over each): traces" in told
    )


@pytest.mark.parametrize(("suffix", "doubtful"), [("apng", False), ("tif", False), ("webp", True)])
def test_animated_pictures_are_stored_as_their_suffix_says(
    suffix: str, doubtful: bool, tmp_path: Path
) -> None:
    png, other = write_pictures(tmp_path / "a", "png"), tmp_path / "b"
    other.mkdir()
    first, *rest = [Image.new("RGB", (16, 16), (i, 0, 0)) for i in range(0, 250, 50)]
    first.save(other / f"0.{suffix}", save_all=True, append_images=rest)
    folders = VideoFolder(png), VideoFolder(other)
    assert folders[1].encodings() == [suffix]
    assert (compression_differs(*folders) is not None) == doubtful


SHORT = ["--protocol", "StyleGANV", "--protocol.frames", "9"]
SHORT += ["--protocol.extractor", "I3DTorchScript"]


def renamed(folder: Path) -> Path:
    for path in folder.glob("*.mp4"):
        path.rename(folder / f"x{path.name}")
    return folder


def doubled(folder: Path) -> Path:
    (folder / "000.avi").write_bytes((folder / "000.mp4").read_bytes())
    return folder


def offline(*args: object, **options: object) -> None:
    raise OSError("no network")


Make = Callable[[Path], list[str | Path]]
ERRORS: dict[str, tuple[Make, str]] = {
    "no folder": (
        lambda p: [write(p / "a"), p / "none"],
        "Data folder {p}/none does not exist: set the path to yours.",
    ),
    "empty folder": (
        lambda p: [write(p / "a"), write(p / "b", 0)],
        "Data folder {p}/b holds no videos and no folders of frames: set the path to a folder of ",
    ),
    "one video": (
        lambda p: [write(p / "a"), write(p / "b", 1)],
        "{p}/b gives 1 clips of 16 frames, and a Fréchet distance needs two or more",
    ),
    "short videos": (
        lambda p: [write(p / "a"), write(p / "b", frames=15)],
        "(its longest video has 15 frames): use more or longer videos, or fewer frames.",
    ),
    "sizes": (
        lambda p: [write(p / "a"), write(p / "b", width=18)],
        "The frames of {p}/a and {p}/b differ in size (16 x 16 and 18 x 16 pixels); give a "
        "--resolution that all are scaled and cropped to.",
    ),
    "range": (
        lambda p: [write_pictures(p / "a", "png"), write_pictures(p / "b", "png", high=1)],
        "No value in {p}/b is above 1, while {p}/a reaches 2",
    ),
    "few frames for I3D": (
        lambda p: [write(p / "a"), write(p / "b"), *SHORT],
        "I3DTorchScript needs clips of 10 frames or more, but the protocol takes 9; use longer "
        "clips or another feature network.",
    ),
    "no pairs": (
        lambda p: [write(p / "a"), renamed(write(p / "b")), "--paired", "true"],
        "No video of {p}/a and {p}/b has the same path but for its suffix: name them alike, or "
        "leave out --paired.",
    ),
    "two of a name": (
        lambda p: [write(p / "a"), doubled(write(p / "b")), "--paired", "true"],
        "{p}/b/000.mp4 and {p}/b/000.avi have the same name but for their suffix: keep one.",
    ),
    "no LPIPS": (
        lambda p: [write(p / "a"), write(p / "b"), "--paired", "true"],
        "LPIPS needs vgg16-397923af.pth, which could neither be read nor fetched: download https:",
    ),
    "resolution": (
        lambda p: [write(p / "a"), write(p / "b"), "--resolution", "0"],
        "--resolution must be at least 1, got 0.",
    ),
    "bootstrap": (
        lambda p: [write(p / "a"), write(p / "b"), "--bootstrap", "-1"],
        "--bootstrap must be at least 0, got -1.",
    ),
    "large resolution": (
        lambda p: [p / "a", p / "b", "--resolution", "1000000"],
        "--resolution must be at most 16384, got 1000000.",
    ),
    "many draws": (
        lambda p: [p / "a", p / "b", "--bootstrap", "1000000000"],
        "--bootstrap must be at most 100000, got 1000000000.",
    ),
    "seed": (
        lambda p: [p / "a", p / "b", "--seed", str(2**70)],
        f"--seed must be at most {2**63 - 1}, got {2**70}.",
    ),
    "width": (
        lambda p: [p / "a", p / "b", "--protocol.extractor.width", "0"],
        "width of Random3D must be at least 1, got 0",
    ),
    "seed of the network": (
        lambda p: [p / "a", p / "b", "--protocol.extractor.seed", "-1"],
        "seed of Random3D must be at least 0, got -1",
    ),
    "protocol": (
        lambda p: [p / "a", p / "b", "--protocol.frames", "0"],
        "frames of a protocol must be at least 1, got 0",
    ),
    "no such protocol": (
        lambda p: [p / "a", p / "b", "--protocol", "Foo"],
        "error: --protocol is Foo, expected: EveryClip, OfficialARDiffusion, StyleGANV (--",
    ),
    "no protocol": (
        lambda p: [p / "a", p / "b", "--protocol", "torch.nn.Linear"],
        "error: --protocol is torch.nn.Linear, expected: EveryClip, OfficialARDiffusion, ",
    ),
    "no number": (
        lambda p: [p / "a", p / "b", "--resolution", "x"],
        "error: --resolution is x, expected: int (--help lists all options).",
    ),
    "no number within": (
        lambda p: [p / "a", p / "b", "--protocol.frames", "x"],
        "error: --protocol.frames is x, expected: int (--help lists all options).",
    ),
    "no option": (
        lambda p: [p / "a", p / "b", "--protocol.nothing", "x"],
        "error: --protocol: Option 'nothing' is not accepted by StyleGANV, leave it out (--help",
    ),
    "output in no folder": (
        lambda p: [write(p / "a"), write(p / "b"), "--output", "/proc/score.json"],
        "error: Cannot write /proc (no such file or directory): free some space or choose",
    ),
    "small frames": (
        lambda p: [
            write(p / "a"),
            write(p / "b"),
            "--resolution",
            "8",
            "--paired",
            "true",
            "--lpips",
            "false",
        ],
        "error: SSIM needs frames of 11 x 11 pixels or more, but these have 8 x 8; use a higher",
    ),
    "no output": (
        lambda p: [p / "a", p / "b", "--output", ""],
        "--output is '', which names no file: give one to write to.",
    ),
    "folder as output": (
        lambda p: [write(p / "a"), p / "b", "--output", p / "a"],
        "--output is '{p}/a', which names no file: give one to write to.",
    ),
}


@pytest.mark.parametrize("mistake", ERRORS)
def test_mistakes_end_with_one_sentence(
    mistake: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    make, told = ERRORS[mistake]
    args = make(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["fvd", *SMALL, *map(str, args)])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert told.format(p=tmp_path) in error and "Traceback" not in error
    assert error[error.index("error: ") :].count("\n") == 1
    assert not Path("score.json").exists()


WARNINGS: dict[str, tuple[Make, str]] = {
    "same folder": (
        lambda p: [write(p / "a"), p / "a" / ".." / "a"],
        "is compared with itself.",
    ),
    "compression": (
        lambda p: [write_pictures(p / "a", "png"), write(p / "b")],
        "{p}/a is stored as png and {p}/b as h264: traces of compression on one side",
    ),
    "one lossy picture": (
        lambda p: [write_pictures(p / "a", "png"), late_jpeg(write_pictures(p / "b", "png"))],
        "{p}/a is stored as png and {p}/b as jpg, png: traces of compression on one side",
    ),
    "too few": (
        lambda p: [write(p / "a"), write(p / "b")],
        "3 clips are too few for 6 features: the covariance is singular",
    ),
    "below 256": (
        lambda p: [write(p / "a"), write(p / "b")],
        "There are only 3 clips on one side: below 256 the distance is biased upwards",
    ),
    "broken": (
        lambda p: [write(p / "a"), broken(write(p / "b"))],
        "1 videos of {p}/b cannot be read and are left out, for example 999.mp4.",
    ),
    "dead link": (
        lambda p: [write(p / "a"), dead_link(write(p / "b"))],
        "1 videos of {p}/b cannot be read and are left out, for example 999.mp4.",
    ),
    "no split": (
        lambda p: [write(p / "a"), write(p / "b"), "--split", "null"],
        "name the split with --split.",
    ),
    "two models": (
        lambda p: [write(p / "a"), two_models(write(p / "b"))],
        "{p}/b mixes videos of 2 models.",
    ),
}


def broken(folder: Path) -> Path:
    (folder / "999.mp4").write_bytes(b"no video")
    return folder


def dead_link(folder: Path) -> Path:
    (folder / "999.mp4").symlink_to("nowhere")
    return folder


def two_models(folder: Path) -> Path:
    lines = [{"file": f"{i}.mp4", "model": model} for i, model in enumerate("ab")]
    (folder / "samples.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def late_jpeg(folder: Path) -> Path:
    picture = folder / "002" / "9.png"
    with Image.open(picture) as opened:
        opened.save(picture.with_suffix(".jpg"))
    picture.unlink()
    return folder


@pytest.mark.parametrize("doubt", WARNINGS)
def test_doubts_are_recorded_and_printed(
    doubt: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, told = WARNINGS[doubt]
    result, printed = measured(capsys, *SMALL, *make(tmp_path))
    sentence = told.format(p=tmp_path)
    assert sum(sentence in warning for warning in result["warnings"]) == 1
    told_of = [line for line in printed.splitlines() if line.startswith("warning: ")]
    assert sum(sentence in line for line in told_of) == 1


def test_a_file_has_one_writer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fvd", *SMALL, str(write(tmp_path / "a")), str(write(tmp_path / "b"))]
    with only_writer(tmp_path, "s.json"):
        with pytest.raises(SystemExit) as exit_:
            main([*command, "--output", str(tmp_path / "s.json")])
        assert exit_.value.code == 2
        sentence = f"Another process is writing into {tmp_path}/s.json: wait until it is done or "
        assert f"{sentence}choose another file." in capsys.readouterr().err
        main([*command, "--output", str(tmp_path / "t.json")])
    main([*command, "--output", str(tmp_path / "s.json")])
    assert {path.name for path in tmp_path.iterdir()} >= {"s.json", "t.json"}
    assert not list(tmp_path.glob(".*"))


def test_alike_folders_are_in_no_doubt_about_compression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    png, other = write_pictures(tmp_path / "a", "png"), write_pictures(tmp_path / "b", "bmp", 5)
    result, _ = measured(capsys, png, other, *SMALL)
    assert not any("compression" in warning for warning in result["warnings"])


def test_numbered_videos_are_compared_by_their_first_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_numbered(tmp_path / "videos", [16, 16, 16, 16])
    longer = write_numbered(tmp_path / "longer", [20, 20, 20, 20])
    result, _ = measured(capsys, folder, longer, *SMALL)
    assert result["value"] < 1e-3  # real clips have but one place, generated ones start at 0
    moved, _ = measured(capsys, longer, folder, *SMALL)
    assert moved["value"] > 1e-3  # real clips start anywhere


@pytest.mark.skipif("I3D_TORCHSCRIPT" not in os.environ, reason="I3D_TORCHSCRIPT names no file")
def test_zeros_against_ones_is_the_published_number() -> None:
    metric = FrechetVideoDistance(I3DTorchScript(os.environ["I3D_TORCHSCRIPT"]))
    zeros = torch.zeros(8, 30, 3, 64, 64, dtype=torch.uint8)
    metric.update(real=zeros, fake=zeros + 255)
    assert metric.compute().item() == pytest.approx(151.26, abs=0.1)
