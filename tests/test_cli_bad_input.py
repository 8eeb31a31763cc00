import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from cli_runs import NOISE, Runs
from safetensors import SafetensorError
from stages import save_tokenizer

from ardiffusion import cli, files

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore:frechet_random3d|The number of training|Attribute|You defined",
)


@pytest.fixture(scope="module")
def bad(skies: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of things that nobody should train on."""
    bad = tmp_path_factory.mktemp("bad")
    clip = sorted(skies.rglob("*.mp4"))[0].read_bytes()
    for name in ("empty", "text", "cut"):
        (bad / name).mkdir()
    for name, content in (("text", b"no video"), ("cut", clip[: len(clip) // 2])):
        (bad / name / "whole.mp4").write_bytes(clip)
        (bad / name / "wrong.mp4").write_bytes(content)
    (bad / "garbage.ckpt").write_text("no checkpoint")
    (bad / "half.ckpt").write_bytes(tokenizer.read_bytes()[:20_000])
    save_tokenizer(bad / "other.ckpt", seed=9)
    return bad


BAD_INPUT: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "no folder": ("vae", "fit", {"data__root": "nowhere"}, "Data folder nowhere does not exist"),
    "empty folder": ("vae", "fit", {"data__root": "BAD/empty"}, "BAD/empty holds no videos"),
    "text": ("vae", "fit", {"data__root": "BAD/text"}, r"text/wrong\.mp4 is broken or not a vid"),
    "cut": ("vae", "fit", {"data__root": "BAD/cut"}, r"cut/wrong\.mp4 is broken or not a video"),
    "short": ("vae", "fit", {"data__frames": 64}, "shorter than the 64 frames needed"),
    "other cache": ("dit", "fit", {"model__arvae": "BAD/other.ckpt"}, "comes from another AR-VAE"),
    "no cache": ("dit", "fit", {"data__latents": "BAD/empty"}, "empty holds no latent cache"),
    "other split": (
        "dit",
        "fit",
        {"data__seed": 5},
        r"give another \w+ split than that of la",
    ),
    "other size": ("dit", "fit", {"data__resolution": 8}, "resolution is 8, but latent cache"),
    "no list": ("dit", "fit", {"data__val_list": "gone.txt"}, r"List .*gone\.txt does not exist"),
    "latents in 1": ("vae", "fit", {"data__latents": "LATENTS"}, "reads videos, no latents: lea"),
    "fraction": (
        "vae",
        "fit",
        {"data__val_fraction": 2},
        "val_fraction must be at most 1, got 2.0",
    ),
    "no AR-VAE": ("dit", "fit", {"model__arvae": "gone.ckpt"}, r"no file or folder gone\.ckpt"),
    "no last": (
        "vae",
        "validate",
        {"ckpt_path": "last", "trainer__logger__init_args__save_dir": "BAD/none"},
        r"This run has no last\.ckpt yet",
    ),
    "stage 2 in 1": (
        "vae",
        "validate",
        {"ckpt_path": "DIT"},
        r"last\.ckpt was made by ardiff-dit",
    ),
    "stage 2 in 1, fit": ("vae", "fit", {"ckpt_path": "DIT"}, "was made by ardiff-dit, but ardif"),
    "stage 1 in 2": (
        "dit",
        "predict",
        {"ckpt_path": "VAE"},
        r"last\.ckpt holds no transformer",
    ),
    "stage 1 in 2, fit": ("dit", "fit", {"ckpt_path": "VAE"}, "was made by ardiff-vae, but ardif"),
    "no ckpt": (
        "dit",
        "predict",
        {"ckpt_path": "gone.ckpt"},
        r"There is no file or folder 'gone\.ckpt",
    ),
    "no ckpt, 1": ("vae", "predict", {"ckpt_path": "gone.ckpt"}, "There is no checkpoint 'gone"),
    "garbage": ("dit", "predict", {"ckpt_path": "BAD/garbage.ckpt"}, "garbage.ckpt holds no weig"),
    "half": ("vae", "validate", {"ckpt_path": "BAD/half.ckpt"}, "not a whole checkpoint"),
    "no output": ("vae", "predict", {"output": ""}, "--output is empty; name a folder"),
    "empty ckpt": ("dit", "validate", {"ckpt_path": ""}, "There is no checkpoint ''; check"),
    "nothing to train": (
        "vae",
        "fit",
        {"trainer__max_steps": 0},
        "max_steps is 0, which trai",
    ),
    "processes": ("vae", "fit", {"trainer__devices": 999}, "devices is 999, too many processes"),
    "no processes": ("vae", "fit", {"trainer__devices": "x"}, "Correct an option of --trainer"),
    "depth": ("dit", "fit", {"model__dit__depth": 10**12}, "depth must be at most 1048576, got 1"),
    "no network of 2": ("dit", "fit", {"model__dit": "ARVAE"}, "ARVAE|no network of stage 2"),
    "small pictures": (
        "vae",
        "fit",
        {"model__adversarial": 1.0},
        "The discriminator needs images of 24 pixels or more, and these have 16",
    ),
    "nothing given": ("vae", "predict", {"ckpt_path": None}, "Nothing to encode with: give"),
    "difference": ("dit", "predict", {"difference": 9}, "between 0 and the 3 steps, got 9"),
    "sink": (
        "dit",
        "predict",
        {"sink": 16, "output": "BAD/s"},
        "sink 16 must be .* below the netw",
    ),
    "context": (
        "dit",
        "predict",
        {"solver": "DDIM", "solver__context_timestep": 1000, "output": "BAD/s"},
        "context_timestep must lie between 0 and 999",
    ),
    "label": ("dit", "predict", {"labels": "[noon]"}, "no class 'noon': it knows dawn, day, dusk"),
    "no test split": ("vae", "test", {"data__test_fraction": 0.0}, "test split holds no video"),
    "clipping": ("vae", "fit", {"trainer__gradient_clip_val": 1}, "takes --model.grad_clip inste"),
    "trainer": ("vae", "fit", {"trainer__max_epochs": -5}, "must be a non-negative integer or -1"),
    "option": ("vae", "fit", {"model__nope": 1}, r"--model.nope=1 \(--help lists all options\)"),
    "type": ("dit", "fit", {"data__frames": "many"}, "--data.frames is many, expected: int"),
    "range": ("dit", "predict", {"guidance": -1}, "guidance is -1, expected: >=0 .--help lists"),
    "bounds": ("dit", "predict", {"fps": 2000}, r"fps is 2000, expected: >=0\.1 and <=1000\.0 \("),
    "no rate": ("dit", "predict", {"fps": "x"}, "--fps is x, expected: float .--help lists"),
    "no count": ("dit", "predict", {"steps": 1.5}, r"--steps is 1\.5, expected: int .--help"),
    "part": ("dit", "predict", {"plan": "Foo"}, "--plan is Foo, expected: AD, FIFO, Fi"),
    "config": ("dit", "fit", {"config": "nope.yaml"}, "no configuration nope.yaml.* dit.yaml"),
    "second run": (
        "vae",
        "fit",
        {"trainer__logger__init_args__save_dir": "RUN"},
        "holds a run al",
    ),
    "steps of nothing": (
        "dit",
        "fit",
        {"trainer__accumulate_grad_batches": 0},
        r"--trainer\.accumulate_grad_batches must be at least 1, got 0",
    ),
    "devices": (
        "vae",
        "fit",
        {"trainer__accelerator": "auto", "trainer__devices": 99},
        r"asks for 99 devices, and there (is|are) \d+: set --trainer\.devices \d+",
    ),
    "no devices": ("dit", "predict", {"trainer__devices": 0}, "devices must be at least 1, got 0"),
    "no time": (
        "vae",
        "fit",
        {"trainer__max_time": "{days: -1}"},
        r"max_time must be above 0",
    ),
    "few": ("vae", "fit", {"trainer__overfit_batches": 2}, r"few videos by --data\.train_list"),
    "endless": ("vae", "fit", {"trainer__max_time": "{days: 1000000000}"}, "Correct an option of"),
    "far apart": (
        "dit",
        "fit",
        {"model__difference": 160},
        "between 0 and the 16 steps, got 160",
    ),
    "timesteps": (
        "dit",
        "fit",
        {"model__timesteps__init_args__timesteps": 2000},
        r"timesteps draws from 2000 timesteps, but the schedule has 1000; set both alike",
    ),
    "no model": ("dit", "fit", {"config": None}, "key|class|--model"),
    "perceptual": (
        "vae",
        "fit",
        {"model__perceptual": 1, "model__lpips": "LPIPS", "model__lpips__trunk": "gone.pth"},
        r"LPIPS needs gone\.pth",
    ),
}


def spelled(value: object, runs: Runs, bad: Path) -> object:
    if not isinstance(value, str):
        return value
    named = {"VAE": str(runs.vae), "DIT": str(runs.dit), "LATENTS": str(runs.latents)}
    named["RUN"] = str(runs.folder / "vae")
    return named.get(value, value.replace("BAD", str(bad)))


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_ends_with_one_sentence(
    name: str, runs: Runs, bad: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stage, verb, changed, sentence = BAD_INPUT[name]
    changed = {key: spelled(value, runs, bad) for key, value in changed.items()}
    if verb == "fit":
        changed = {"trainer__logger__init_args__save_dir": tmp_path, **changed}
    with pytest.raises(SystemExit) as ended:
        runs.run(stage, verb, **changed)
    assert ended.value.code == 2
    shown = capfd.readouterr()
    (error,) = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert re.search(sentence.replace("BAD", str(bad)), error), error
    assert shown.err.rstrip().endswith(error)
    assert not re.search(NOISE, shown.out + shown.err)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            [],
            "required: fit.model.arvae; begin with a configuration, as --config vae.yaml (--help",
        ),
        (
            [
                "--config=vae.yaml",
                "--trainer.callbacks=[{class_path: VideoLogger, init_args: OLD}]",
            ],
            "--trainer.callbacks: Option 'steps' is not accepted by VideoLogger, leave it out (",
        ),
    ],
)
def test_configurations_that_lack_or_outlive_an_option_are_told_what_to_do(
    given: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.vae(["fit", *(arg.replace("OLD", "{clips: 2, steps: 50}") for arg in given)])
    assert sentence in capsys.readouterr().err


def test_debug_shows_the_traceback(skies: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Data folder nowhere"):
        Runs(tmp_path, root=skies).run("vae", "fit", "--debug", data__root="nowhere")


def full_disk(descriptor: int) -> None:
    if "stability" not in os.readlink(f"/proc/self/fd/{descriptor}"):  # a log, which comes first
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("stage", "verb", "sentence"),
    [
        ("vae", "fit", r"Cannot write .*last\.ckpt \(no space left on device\): free"),
        ("dit", "predict", r"Cannot write .*samples\.jsonl \(no space left on device\): free"),
    ],
)
def test_full_disk_ends_with_one_sentence(
    stage: str,
    verb: str,
    sentence: str,
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    before = runs.vae.read_bytes()
    going_on: dict[str, Any] = {"ckpt_path": runs.vae, "trainer__max_steps": 5}
    changed = {"output": tmp_path / "new"} if verb == "predict" else going_on
    with pytest.raises(SystemExit, match="2"):
        runs.run(stage, verb, **changed)
    assert re.search(sentence, capfd.readouterr().err)
    assert runs.vae.read_bytes() == before
    assert not [path for path in runs.vae.parent.iterdir() if path.suffix != ".ckpt"]


def test_full_disk_while_encoding_ends_with_one_sentence(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*args: object, **options: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(SystemExit, match="2"):
        runs.run("vae", "predict", output=tmp_path / "new")
    assert re.search(
        r"error: Cannot write .*new/000-0.* \(.*No space left", capfd.readouterr().err
    )
    monkeypatch.undo()
    runs.run("vae", "predict", output=tmp_path / "new")
    assert json.loads((tmp_path / "new" / "index.json").read_text())["complete"]
