import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from recorder import Recorder, assert_alike, assert_same_videos, recorded
from torch import Tensor
from torch.testing import assert_close

from ardiffusion.data.samples import SampleFolder
from ardiffusion.data.video import read_frames
from ardiffusion.data.writer import write_video
from ardiffusion.diffusion.noise import latent_noise, sample_seed, sample_seeds
from ardiffusion.diffusion.solver import DDIM
from ardiffusion.generator import Generator
from ardiffusion.nn.autoencoder import to_bytes, to_unit
from ardiffusion.nn.dit import ARDiT
from ardiffusion.training import predict as predicting
from ardiffusion.training.predict import make_requests, read_labels
from ardiffusion.training.trainers import SamplingTrainer

pytestmark = pytest.mark.filterwarnings("ignore:Attribute|You defined a|Found .* in eval mode")
CLASSES = ["dawn", "day", "dusk", "night"]


def predict(
    generator: Path,
    output: Path,
    callbacks: list[Callback] | None = None,
    **options: Any,  # noqa: ANN401
) -> list[dict[str, Any]]:
    trainer = SamplingTrainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, callbacks=callbacks
    )
    settings = {"samples": 4, "frames": 4, "steps": 3, "difference": 1, "batch_size": 2}
    trainer.predict(ckpt_path=str(generator), output=str(output), **{**settings, **options})
    return [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def _record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "VideoWriter", Recorder)


def generate(
    generator: Path, seeds: list[int], frames: int = 4, difference: int = 2, eta: float = 0.0
) -> Tensor:
    made = Generator.from_pretrained(generator)
    sampler = made.sampler(steps=4, difference=difference, solver=DDIM(eta))
    labels = [seed % 4 for seed in seeds]
    return made.generate(seeds, frames=frames, labels=labels, sampler=sampler)


def test_bytes_survive_the_way_through_floats() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert_close(to_bytes(to_unit(levels)), levels)
    assert to_bytes(torch.tensor([-3.0, 0.4999 / 255, 0.5001 / 255, 7.0])).tolist() == [
        0,
        0,
        1,
        255,
    ]


def test_seeds_of_runs_do_not_overlap() -> None:
    assert sample_seed(3, 999_999) + 1 == sample_seed(4, 0)
    assert sample_seed(4293, 999_999) < 2**32


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_video_depends_on_its_own_seed_alone(generator: Path, eta: float) -> None:
    together = generate(generator, seeds=[7, 8, 9], eta=eta)
    for i, seed in enumerate((7, 8, 9)):
        assert_alike(generate(generator, seeds=[seed], eta=eta)[0], together[i])
    assert (together[0].int() - together[1].int()).abs().max() > 10


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("difference", [1, 2, 4])
def test_longer_video_begins_like_a_shorter_one(
    generator: Path, difference: int, eta: float
) -> None:
    short = generate(generator, seeds=[7], frames=3, difference=difference, eta=eta)
    long = generate(generator, seeds=[7], frames=6, difference=difference, eta=eta)
    assert_alike(long[:, :3], short)


def test_noise_of_a_frame_does_not_depend_on_the_number_of_frames() -> None:
    def draw(frames: int) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        return latent_noise(generators, frames=frames, tokens=3, channels=2)

    assert_close(draw(9)[:, :4], draw(4), rtol=0, atol=0)


def test_frames_are_written_while_later_ones_are_noise(
    generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterations: list[int] = []
    evaluate = ARDiT.forward

    def counted(self: ARDiT, *args: Any, **options: Any) -> Tensor:  # noqa: ANN401
        iterations.append(0)
        return evaluate(self, *args, **options)

    class Watch(Recorder):
        def write(self, frame: Tensor) -> None:
            seen.append(len(iterations))
            super().write(frame)

    seen: list[int] = []
    monkeypatch.setattr(ARDiT, "forward", counted)
    monkeypatch.setattr(predicting, "VideoWriter", Watch)
    predict(generator, tmp_path, samples=1, frames=6, steps=3, difference=2)
    assert seen == [3 + 2 * frame for frame in range(6)]  # frame f is clean after S + s f


def test_every_sample_has_a_file_and_a_line(generator: Path, tmp_path: Path) -> None:
    lines = predict(generator, tmp_path, samples=5, seed=3, guidance=2.0)
    made = Generator.from_pretrained(generator)
    shared = {"frames": 4, "steps": 3, "difference": 1, "guidance": 2.0, "solver": "DDIM"}
    shared |= {"eta": None, "context_timestep": None, "plan": None, "sink": None, "fps": 25}
    shared |= {
        "seed": 3,
        "model": made.fingerprint(),
        "prefix": None,
        "target": "X0",
        "precision": "32-true",
    }
    shared |= {"schedule": {"beta_start": 1e-4, "beta_end": 0.02, "timesteps": 1000}}
    assert lines == [
        {"file": f"00000{i}.mp4", "index": i, "label": CLASSES[i % 4], **shared} for i in range(5)
    ]
    sampler = made.sampler(steps=3, difference=1, guidance=2.0)
    labels = made.labels_in_turn(range(5))
    videos = made.generate(sample_seeds(3, range(5)), frames=4, labels=labels, sampler=sampler)
    found = recorded(tmp_path)
    for line, video in zip(lines, videos, strict=True):
        pictures = found[line["file"]]
        assert_alike(pictures, video)
        # The codec leaves little of pictures as tiny as these, but not nothing.
        assert distance(read_frames(tmp_path / line["file"]), pictures) < distance(128, pictures)


def distance(one: Tensor | int, other: Tensor) -> float:
    return float((torch.as_tensor(one).int() - other.int()).abs().double().mean())


class Kill(Callback):
    """Break off before the second batch."""

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx == 1:
            raise RuntimeError("killed")


def test_killed_run_resumes_to_the_same_videos(generator: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    predict(generator, whole)
    with pytest.raises(RuntimeError, match="killed"):
        predict(generator, part, callbacks=[Kill()])
    assert list(recorded(part)) == ["000000.mp4", "000001.mp4"]
    times = [path.stat().st_mtime_ns for path in sorted(part.glob("*.mp4"))]
    lines = predict(generator, part)
    assert [line["index"] for line in lines] == [0, 1, 2, 3]
    assert [path.stat().st_mtime_ns for path in sorted(part.glob("*.mp4"))][:2] == times
    assert_same_videos(part, whole)
    assert not [path for path in part.iterdir() if path.suffix not in (".mp4", ".jsonl")]


def test_line_cut_short_is_made_again(tmp_path: Path) -> None:
    requests = make_requests(3, seed=0, labels=[])
    folder = SampleFolder(tmp_path, settings={"frames": 4})
    for request in requests:
        write_video(
            tmp_path / f"{request['index']}.mp4", torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
        )
        folder.add(request, file=f"{request['index']}.mp4")
    text = folder.log.read_text()
    folder.log.write_text(text[:-7])
    assert folder.missing(requests) == requests[2:]
    folder.add(requests[2], file="2.mp4")
    assert folder.missing(requests) == []
    assert folder.log.read_text() == text[:-7] + "\n" + text.splitlines(keepends=True)[2]


def test_video_that_was_deleted_is_made_again(generator: Path, tmp_path: Path) -> None:
    whole, mended = tmp_path / "whole", tmp_path / "mended"
    predict(generator, whole)
    predict(generator, mended)
    (mended / "000002.mp4").unlink()
    predict(generator, mended)
    assert_same_videos(mended, whole)


def test_other_settings_are_refused(generator: Path, tmp_path: Path) -> None:
    predict(generator, tmp_path, samples=1)
    with pytest.raises(
        ValueError, match=r"other settings \(steps is 3, now 2\); choose another --o"
    ):
        predict(generator, tmp_path, samples=1, steps=2)
    with pytest.raises(ValueError, match=r"other settings \(seed is 0, now 1\)"):
        predict(generator, tmp_path, samples=1, seed=1)
    with pytest.raises(ValueError, match=r"other settings \(eta is None, now 0.5\)"):
        predict(generator, tmp_path, samples=1, solver=DDIM(eta=0.5))


def test_more_samples_join_those_that_are_there(generator: Path, tmp_path: Path) -> None:
    predict(generator, tmp_path / "more", samples=3)
    lines = predict(generator, tmp_path / "more", samples=4, batch_size=1)
    assert [line["index"] for line in lines] == [0, 1, 2, 3]


def test_labels_are_taken_in_turn_by_name(generator: Path, tmp_path: Path) -> None:
    lines = predict(generator, tmp_path / "two", samples=3, labels=["night", "day"])
    assert [line["label"] for line in lines] == ["night", "day", "night"]
    lines = predict(generator, tmp_path / "one", samples=2, labels="dusk")
    assert [line["label"] for line in lines] == ["dusk", "dusk"]
    one, two = (recorded(tmp_path / name)["000000.mp4"].int() for name in ("one", "two"))
    assert (one - two).abs().max() > 10


def test_prefixes_are_continued_as_what_they_are(
    generator: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    for name, colour in {"dusk": "navy", "day": "white"}.items():
        (tmp_path / "given" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), colour).save(tmp_path / "given" / name / "0.png")
    lines = predict(generator, tmp_path / "made", prefix=str(tmp_path / "given"))
    assert [line["label"] for line in lines] == ["day", "dusk", "day", "dusk"]
    files = [line["prefix"]["file"] for line in lines]
    assert files == ["day/0.png", "dusk/0.png", "day/0.png", "dusk/0.png"]
    given = {"prefix": str(tmp_path / "given"), "labels": ["night", "dawn", "day"]}
    lines = predict(generator, tmp_path / "other", **given)
    assert [line["label"] for line in lines] == ["night", "dawn", "day", "night"]
    assert not [w for w in recwarn if "is not known" in str(w.message)]


def test_a_prefix_of_no_class_is_continued_as_any_with_a_warning(
    generator: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "sky.png")
    with pytest.warns(UserWarning, match=r"class of sky\.png is not known.* by --labels"):
        lines = predict(generator, tmp_path / "made", prefix=str(tmp_path / "sky.png"))
    assert [line["label"] for line in lines] == CLASSES


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"labels": ["noon"]},
            "no class 'noon': it knows dawn, day, dusk, night; correct --labels",
        ),
        ({"difference": 9}, "difference must lie between 0 and the 3 steps, got 9"),
        ({"labels": []}, "--labels names no class"),
        ({"labels": "[]"}, "--labels names no class"),
        ({"prefix": "nowhere"}, "no picture, video or folder nowhere"),
        ({"prefix_frames": 3}, "--prefix_frames needs a --prefix"),
    ],
)
def test_bad_settings_are_named(
    generator: Path, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises((ValueError, OSError), match=sentence):
        predict(generator, tmp_path, **options)


def test_an_empty_output_is_refused(generator: Path) -> None:
    with pytest.raises(ValueError, match="--output is empty"):
        SamplingTrainer(accelerator="cpu", logger=False).predict(output="")


def test_labels_of_a_model_without_classes_are_refused() -> None:
    assert make_requests(1, seed=2, labels=[])[0]["label"] is None
    with pytest.raises(ValueError, match="no class 'day': it has no classes"):
        read_labels(["day"], classes=[])


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("[2,10]", ["2", "10"]),
        ("[\"2\", '10']", ["2", "10"]),
        ("2", ["2"]),
        ("yes", ["yes"]),
        ("[yes, null,1e3]", ["yes", "null", "1e3"]),
        ("null", ["null"]),
        ("[x]", ["[x]"]),
        ("[2]", ["2"]),
        ('"a, b"', ["a, b"]),
        ('["a, b",2]', ["a, b", "2"]),
        ("2,10", ["2", "10"]),
        ([2, "10"], ["2", "10"]),
        ("[d'Arc,2]", ["d'Arc", "2"]),
        ("['d''Arc', 2]", ["d'Arc", "2"]),
    ],
)
def test_classes_go_by_the_names_as_they_are_written(
    given: str | list[str | int], names: list[str]
) -> None:
    classes = ["2", "10", "yes", "null", "1e3", "[x]", "a, b", "d'Arc"]
    assert read_labels(given, classes=classes) == names
    if isinstance(given, str):  # the command line hands on what was written
        parser = ArgumentParser(exit_on_error=False)
        parser.add_method_arguments(SamplingTrainer, "predict", skip={"model", "solver", "plan"})
        handed_on = parser.parse_args([f"--labels={given}"]).labels
        assert read_labels(handed_on, classes=classes) == names
