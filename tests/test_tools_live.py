"""Live videos without their page: what they show, how they end, and what they say."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ardiffusion.data.video import read_frames
from ardiffusion.data.writer import write_video
from ardiffusion.diffusion.noise import LAST_SEED
from ardiffusion.generator import Generator
from ardiffusion.tools.command import main
from ardiffusion.tools.live import LiveVideo, Studio, Wish, live

WISH = Wish(label=None, seed=0, steps=4, difference=1, guidance=1.0)


@pytest.fixture
def studio(generator: Path, tmp_path: Path) -> Iterator[Studio]:
    model = Generator.from_pretrained(generator).requires_grad_(False)
    studio = Studio(model, folder=tmp_path, fps=1000)
    yield studio
    for session in list(studio.videos):
        studio.end(session)
    assert not studio.turn.locked() and not list(tmp_path.rglob("*seed*"))


def wait(video: LiveVideo, frames: int) -> LiveVideo:
    while video.frames < frames and video.thread.is_alive():
        video.thread.join(timeout=0.01)
    return video


def test_the_file_holds_what_was_made_until_the_stop(studio: Studio) -> None:
    video = wait(studio.begin("a", WISH), frames=7)
    assert video.thread.is_alive() and video.span is not None
    assert sorted(video.span.after, reverse=True) == list(video.span.after)
    video.stop()
    assert not video.problem and len(read_frames(video.file)) == video.frames >= 7


def test_a_new_video_of_a_session_ends_the_one_before(studio: Studio) -> None:
    first = wait(studio.begin("a", WISH), frames=1)
    second = studio.begin("a", replace(WISH, seed=1))
    assert not first.thread.is_alive() and not first.file.exists()
    assert wait(second, frames=1).thread.is_alive()


def test_a_picture_is_what_the_video_begins_with(studio: Studio, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    write_video(clip, torch.full((3, 3, 16, 16), 90, dtype=torch.uint8))
    video = wait(studio.begin("a", replace(WISH, start=str(clip))), frames=5)
    video.stop()
    assert video.given == 3 and not video.problem


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"seed": None}, "Seed is empty: give a number."),
        ({"seed": LAST_SEED + 1}, f"The seed must be from 0 to {LAST_SEED}, got {LAST_SEED + 1}."),
        ({"steps": 0}, "steps"),
        ({"steps": 4.5}, "Steps must be a whole number, got 4.5."),
        ({"seed": 0.9}, "Seed must be a whole number, got 0.9."),
        ({"difference": float("inf")}, "Difference must be a whole number, got inf."),
        ({"difference": 9}, "difference"),
        ({"difference": 0}, "A video without end needs a difference of at least 1, got 0."),
        ({"guidance": -1.0}, "guidance must be a finite number of at least 0, got -1.0."),
        ({"label": "dusty"}, "There is no class 'dusty'"),
    ],
)
def test_a_wish_that_cannot_be_met_is_a_sentence(
    studio: Studio, wrong: dict[str, object], sentence: str
) -> None:
    video = studio.begin("a", replace(WISH, **wrong))  # pyright: ignore[reportArgumentType]
    video.thread.join()
    assert sentence in video.problem and not video.file.exists()
    assert "\n" not in video.problem and "Traceback" not in video.problem


def test_more_people_than_the_machine_serves_are_told_to_wait(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ardiffusion.tools.live.PEOPLE", 1)
    first = wait(studio.begin("a", WISH), frames=1)
    second = studio.begin("b", WISH)
    second.thread.join()
    assert second.problem == "1 people have a video made already: wait for one to stop."
    first.stop()
    assert wait(studio.begin("b", WISH), frames=1).frames >= 1


def test_guidance_without_classes_is_a_sentence(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    unconditional = type("Unconditional", (type(studio.generator.dit),), {"conditional": False})
    monkeypatch.setattr(studio.generator.dit, "__class__", unconditional)
    video = studio.begin("a", replace(WISH, guidance=2.0))
    video.thread.join()
    assert "needs a network with a condition; use guidance 1" in video.problem


def test_frames_that_are_not_finite_are_a_sentence(studio: Studio) -> None:
    next(studio.generator.dit.parameters()).fill_(torch.nan)
    video = studio.begin("a", WISH)
    video.thread.join()
    assert "A frame is not finite" in video.problem


def test_other_failures_are_told_in_the_terminal(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(studio.generator, "sampler", fail)
    video = studio.begin("a", WISH)
    video.thread.join()
    assert video.problem.startswith("The computation broke off (out of memory)")
    assert "Traceback" in capfd.readouterr().err


def test_a_name_of_an_upload_is_all_that_is_told_of_its_place(
    studio: Studio, tmp_path: Path
) -> None:
    fake = tmp_path / "sky.png"
    fake.write_text("not a picture")
    video = studio.begin("a", replace(WISH, start=str(fake)))
    video.thread.join()
    assert video.problem.startswith("sky.png is broken or not a picture")


def test_without_gradio_the_command_names_the_extra(
    generator: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "ardiffusion.tools.live_page", raising=False)
    with pytest.raises(SystemExit):
        main(["live", str(generator)])
    assert "pip install 'ardiffusion[live]'" in capsys.readouterr().err


@pytest.mark.parametrize("fps", [0.0, 0.05, 1000.5])
def test_rates_that_no_file_can_have_are_refused_at_once(fps: float) -> None:
    with pytest.raises(ValueError, match=f"^--fps must be from 0.1 to 1000, got {fps}.$"):
        live("no such source", fps=fps)


def test_the_command_takes_a_source_or_the_published_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    page = SimpleNamespace(serve=None)
    monkeypatch.setitem(sys.modules, "ardiffusion.tools.live_page", page)

    def load(source: str | None, arvae: str | None, dataset: str) -> None:
        seen.append((source, dataset))
        raise ValueError("enough")

    monkeypatch.setattr("ardiffusion.tools.live.load_generator", load)
    for args in (["some.ckpt"], ["--dataset", "ffs"]):
        with pytest.raises(SystemExit):
            main(["live", *args])
    assert seen == [("some.ckpt", "sky"), (None, "ffs")]
