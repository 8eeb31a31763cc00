import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import spell
from hub_server import REPO, Hub
from huggingface_hub import constants
from published_models import TOKENIZER, TRANSFORMER, publish_here, published_repository

from ardiffusion import cli
from ardiffusion.data.video import read_frames
from ardiffusion.data.writer import write_video
from ardiffusion.generator import Generator
from ardiffusion.nn.fingerprint import fingerprint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Attribute")
FAST = {"trainer.accelerator": "cpu", "samples": 1, "frames": 2, "steps": 2, "difference": 1}


@pytest.fixture
def published(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """A Hub with small published weights, and an empty working directory."""
    hub.add(published_repository())
    publish_here(monkeypatch)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return hub


def predict(**options: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    cli.dit(["predict", *spell(FAST, options)])
    lines = Path(options.get("output", "samples"), "samples.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def refusal(capfd: pytest.CaptureFixture[str], **options: Any) -> str:  # noqa: ANN401
    with pytest.raises(SystemExit) as ended:
        predict(**options)
    assert ended.value.code == 2
    return capfd.readouterr().err.rstrip().splitlines()[-1]


def test_without_a_checkpoint_published_weights_generate(published: Hub) -> None:
    (line,) = predict(dataset="sky")
    assert (line["solver"], line["label"], line["guidance"]) == ("PublishedDDIM", None, 2.0)
    assert read_frames(Path("samples", line["file"])).shape == (2, 3, 32, 32)
    asked = [path.split("/resolve/")[1].split("/", 1)[1] for path in published.bodies()]
    assert set(asked) == {TOKENIZER, TRANSFORMER}


def test_classes_of_ucf101_go_by_name(published: Hub) -> None:
    lines = predict(dataset="ucf101", labels="[Archery,YoYo]", samples=3)
    assert [line["label"] for line in lines] == ["Archery", "YoYo", "Archery"]
    model = Generator.published("ucf101")
    sampler = model.sampler(steps=2, difference=1, guidance=2.0)
    labels = ["Archery", 100, "Archery"]
    ours = model.generate([0, 1, 2], frames=2, labels=labels, sampler=sampler)
    for line, video in zip(lines, ours, strict=True):
        write_video("ours.mp4", video, fps=25)
        assert torch.equal(read_frames(Path("samples", line["file"])), read_frames("ours.mp4"))
    other = model.generate([0, 1, 2], frames=2, labels=[3, 100, 2], sampler=sampler)
    assert [torch.equal(a, b) for a, b in zip(ours, other, strict=True)] == [False, True, True]


def test_guidance_is_off_beyond_the_published_sixteen_frames(published: Hub) -> None:
    (line,) = predict(frames=17, difference=2)
    assert line["guidance"] == 1.0
    (line,) = predict(frames=17, difference=2, guidance=1.5, output="guided")
    assert line["guidance"] == 1.5


def test_offline_the_cache_generates_and_a_miss_is_one_sentence(
    published: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    online = predict()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    published.requests.clear()
    assert predict(output="offline") == online
    assert not published.requests
    said = refusal(capfd, dataset="ucf101", output="missed")
    assert f"The cached part of {REPO} holds no published weights for ucf101" in said
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "elsewhere")
    said = refusal(capfd, output="missed")
    assert re.fullmatch(rf"error: hf://{REPO} is not in the cache elsewhere, .* instead\.", said)
    assert not Path("missed").exists()


def test_frames_that_outrun_the_window_are_refused(
    published: Hub, capfd: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capfd, frames=20, steps=20, difference=1)
    assert "outrun the network's window of 16 frames" in said
    assert not list(Path("samples").iterdir())


def test_two_files_generate_together(published: Hub, tmp_path: Path, skies: Path) -> None:
    for name, content in published_repository().items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(content)
    chosen = {"ckpt_path": tmp_path / TRANSFORMER, "arvae": f"hf://{REPO}/{TOKENIZER}"}
    assert predict(output="together", **chosen) == predict(dataset="sky")
    (line,) = predict(
        ckpt_path=f"hf://{REPO}/ucf101/midt_class",
        arvae=tmp_path / TOKENIZER,
        dataset="ucf101",
        labels="YoYo",
        output="classes",
    )
    assert line["label"] == "YoYo"


def test_a_network_that_is_missing_is_named(
    published: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capfd, ckpt_path=f"hf://{REPO}/{TRANSFORMER}")
    assert said.endswith(f"{TRANSFORMER} holds no AR-VAE; name one with --arvae.")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = refusal(capfd, dataset="sky")
    assert said.endswith("(or what the cache has of it) holds no AR-VAE; name one with --arvae.")
    said = refusal(capfd, ckpt_path=f"hf://{REPO}/{TRANSFORMER}", arvae=f"hf://{REPO}/{TOKENIZER}")
    assert f"{TOKENIZER} is not in the cache" in said


def test_stage_1_starts_from_published_weights(
    published: Hub, skies: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sizes = {"resolution": 32, "width": 64, "heads": 1, "depth": 1, "tokens": 32}
    sizes |= {"pixel_width": 16, "codebook": 8, "embedding": 8}
    options = {f"model.arvae.init_args.{name}": size for name, size in sizes.items()}
    options |= {"trainer.accelerator": "cpu", "data.root": skies, "data.resolution": 32}
    options |= {
        "data.workers": 0,
        "model.start": f"hf://{REPO}/{TOKENIZER}",
        "data.cache": "index",
    }
    with pytest.raises(SystemExit, match="2"):
        cli.vae(["predict", "--config=vae_tiny.yaml", *spell(options)])
    name = "ardiffusion.nn.arvae.PublishedARVAE"
    assert f"made for PublishedARVAE; set --model.arvae to {name}." in capfd.readouterr().err
    given = ["--config=vae_tiny.yaml", f"--model.arvae={name}", *spell(options)]
    cli.vae(["predict", *given])
    index = json.loads(Path("latents", "index.json").read_text())
    model = Generator.published("sky")
    assert index["origin"]["fingerprint"] == fingerprint(model.arvae)
