import json
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from ardiffusion.cli import dit, vae
from ardiffusion.data.layouts import find_clips
from ardiffusion.tools.videos import videos
from experiments import stages as module
from experiments.command import DIT, VAE
from experiments.reproduce import main, split
from experiments.reproduction.experiments import EXPERIMENTS, stages_of
from experiments.reproduction.runs import Recipe, clock
from experiments.stages import Stage, StageLog

COMMANDS = {str(VAE): vae, str(DIT): dit}


def make_recipe(out: Path, **sizes: int) -> Recipe:
    usual = {"vae_seconds": 60, "dit_seconds": 90, "samples": 4, "long_samples": 2}
    return Recipe(out=out, **{**usual, "long_frames": 32, "steps": 10, **sizes})


@pytest.mark.parametrize("seconds", [1, 59, 60, 3599, 3600, 90_061])
def test_clock_is_read_back_as_the_same_time(seconds: int) -> None:
    days, hours, minutes, rest = map(int, clock(seconds).split(":"))
    read = timedelta(days=days, hours=hours, minutes=minutes, seconds=rest)
    assert read.total_seconds() == seconds


def test_every_stage_finds_what_it_needs_made_before(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path / "my runs")
    stages = list(stages_of(EXPERIMENTS.values(), recipe))
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    made = {str(recipe.train), str(recipe.held_out), str(recipe.out / "features")}
    for stage in stages:
        words = [word.split("=")[-1] for word in stage.command]
        outputs = {after for word, after in pairwise(words) if after_of(word)}
        if stage.name.startswith("reconstructions"):
            outputs.add(words[-1])
        used = {word for word in words if word.startswith(str(tmp_path))} - outputs
        assert used <= made, stage.name
        made |= outputs
        made |= {f"{run}/checkpoints/last.ckpt" for run in outputs}


def after_of(option: str) -> bool:
    """Say whether an option names something that a command writes."""
    return option in ("--output", "--trainer.logger.init_args.save_dir")


def test_one_experiment_trains_no_model_of_another(tmp_path: Path) -> None:
    names = [s.name for s in stages_of([EXPERIMENTS["difference"]], make_recipe(tmp_path))]
    trained = [name for name in names if name.startswith("training")]
    assert trained == ["training of ar-vae", "training of ar-diffusion"]


def test_commands_of_training_are_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = 0
    for stage in stages_of(EXPERIMENTS.values(), make_recipe(tmp_path)):
        command, *options = stage.command
        if command in COMMANDS and stage.name.startswith("training"):
            verb, *options = options
            with pytest.raises(SystemExit) as exit_:
                COMMANDS[command]([verb, "--print_config", *options])
            assert exit_.value.code == 0, stage.name
            printed = capsys.readouterr().out
            assert "max_time: 00:00:01:" in printed and "ckpt_path: last\n" in printed
            seen += 1
    assert seen == 9


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def note(name: str, command: list[str], readers: int) -> float:
        ran.extend(command)
        if command == ["fail"]:
            raise SystemExit(1)
        return 1.25

    monkeypatch.setattr(module, "run", note)
    log = StageLog(tmp_path, {"videos": 5}, kind="test")
    log.do(Stage("a", ["one"]))
    with pytest.raises(SystemExit):
        log.do(Stage("b", ["fail"]))
    again = StageLog(tmp_path, {"videos": 5}, kind="test")
    for stage in (Stage("a", ["one"]), Stage("b", ["two"])):
        again.do(stage)
    assert ran == ["one", "fail", "two"]
    assert StageLog(tmp_path, {"videos": 5}, kind="test").seconds == {"a": 1.2, "b": 1.2}
    with pytest.raises(ValueError, match="holds a test with videos 5, not 6; choose another"):
        StageLog(tmp_path, {"videos": 6}, kind="test")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--videos", "0"], "--videos must be above 0, got 0."),
        (["--steps", "49"], "--steps must be 50, the largest s, or more, got 49."),
        (["--root", "none"], "Data folder none does not exist"),
        (["--samples", "7"], "holds a reproduction with samples 4, not 7; choose another --out."),
    ],
)
def test_bad_input_ends_with_one_sentence(
    options: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = tmp_path / "old" / "done.json"
    done.parent.mkdir()
    sizes = vars(make_recipe(tmp_path))
    sizes |= {"root": None, "videos": 300, "vae_seconds": 210, "dit_seconds": 150}
    sizes |= {"long_samples": 16, "long_frames": 128, "steps": 50}
    del sizes["out"], sizes["classes"]
    done.write_text(json.dumps({"settings": sizes, "seconds": {}}))
    out = done.parent if "--samples" in options else tmp_path / "new"
    with pytest.raises(SystemExit) as exit_:
        main(["--out", str(out), *options])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_a_fifth_of_the_videos_is_held_out(skies: Path, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    for _ in range(2):  # a second time nothing changes
        split(skies, recipe)
    train, held_out = (
        {entry.path for entry in find_clips(folder)} for folder in (recipe.train, recipe.held_out)
    )
    every = {entry.path for entry in find_clips(skies)}
    assert train | held_out == every and not train & held_out
    assert len(held_out) == round(len(every) / 5)


@pytest.mark.slow
def test_own_videos_of_another_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos(str(tmp_path / "own"), videos=10, frames=32, resolution=96)
    sizes = {"vae_minutes": 0.1, "dit_minutes": 0.1, "samples": 4, "long_samples": 2}
    options = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    own = ["--root", str(tmp_path / "own"), "--experiments", "[methods]", "--long_frames", "32"]
    main(["--out", str(tmp_path / "all"), *own, *options])
    assert Path(json.loads(capsys.readouterr().out.splitlines()[-1])["page"]).exists()


@pytest.mark.slow
def test_whole_reproduction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"videos": 20, "vae_minutes": 0.1, "dit_minutes": 0.1, "samples": 4}
    sizes |= {"long_samples": 2, "long_frames": 32}
    options = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    main(["--out", str(tmp_path / "all"), *options])
    page = Path(json.loads(capsys.readouterr().out.splitlines()[-1])["page"])
    text = page.read_text(encoding="utf-8")
    for words in ("Table 1", "Table 2", "Figures 1 and 2", "FIFO", "Diffusion Forcing"):
        assert words in text
