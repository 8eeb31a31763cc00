import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from einops import rearrange, repeat

from ardiffusion import cli
from ardiffusion.diffusion.plans import FIFO
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import DDIM
from experiments.demo_report import motion
from experiments.study import STUDIES, Arm, main, note_arm, read_arms
from experiments.study_table import MEASURES, compared, paired, table, write_results
from experiments.trial import clips_of, describe, measure, sampling, training

ARMS = read_arms("skies.yaml")
NAMES = ("skies.yaml", "baselines.yaml", "candidates.yaml")
EVERY = [(study, *arm) for study in NAMES for arm in read_arms(study).items()]


@pytest.mark.parametrize(("study", "name", "arm"), EVERY)
def test_every_arm_is_a_configuration_whose_changes_win(
    study: str, name: str, arm: Arm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"dit_steps": 7}
    place = tmp_path / name / "seed_3"
    command = training(place, tmp_path, sizes, arm.dit, data=tmp_path, seed=3)
    with pytest.raises(SystemExit):
        cli.dit([*command, "--print_config"])
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["trainer"]["max_steps"] == 7 and found["seed_everything"] == 3
    assert found["ckpt_path"] == "last"  # goes on where it was cut short
    for part, change in arm.dit.get("model", {}).items():
        if "class_path" in change:
            assert found["model"][part]["class_path"] == change["class_path"]


@pytest.mark.parametrize(("study", "name", "arm"), EVERY)
def test_every_arm_can_be_sampled(study: str, name: str, arm: Arm) -> None:
    for frames, options in ((16, arm.short), (64, arm.long)):
        sampler = Sampler(NoiseSchedule(), **sampling(options))
        assert next(sampler.plan.rows(frames, sampler.steps, window=16))


def test_a_solver_of_an_arm_may_have_arguments() -> None:
    found = sampling({"solver": {"DDIM": {"eta": 0.5}}, "plan": "FIFO", "steps": 3})
    assert isinstance(found["solver"], DDIM) and found["solver"].eta == 0.5
    assert isinstance(found["plan"], FIFO) and found["steps"] == 3


def test_the_paper_s_method_is_what_others_are_compared_with() -> None:
    assert next(iter(ARMS)) == "paper"
    assert ARMS["synchronous"].long == {"plan": "FIFO", "steps": 30}
    assert Arm().stage_1 != ARMS["latent_noise"].stage_1


def test_pictures_are_for_arms_that_name_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = read_arms("scarce.yaml")
    share = {name: arm.dit.get("data", {}).get("image_share") for name, arm in arms.items()}
    assert share == {"videos": None, "pictures_in_stage_1": 0.0, "pictures": 0.5}
    command = training(tmp_path, tmp_path, {"dit_steps": 7}, arms["pictures"].dit, tmp_path, 3)
    with pytest.raises(SystemExit):
        cli.dit([*command, "--print_config"])
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["data"]["image_share"] == 0.5
    assert found["trainer"]["max_steps"] == found["model"]["lr_scheduler"]["init_args"]["steps"]


def test_a_paired_difference_has_student_s_interval() -> None:
    found = paired([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])
    half = 4.303 * 1.0 / math.sqrt(3)  # the differences 2, 3, 1 scatter by 1
    assert found == pytest.approx((2.0, 2.0 - half, 2.0 + half))
    assert not found.decided
    assert paired([2.0, 2.1, 2.0], [1.0, 1.1, 1.1]).decided


def test_distances_are_compared_by_their_ratio() -> None:
    found = compared("frechet_short", [2.0, 8.0], [1.0, 4.0])
    assert math.exp(found.value) == pytest.approx(2.0)


def test_results_name_every_trial_that_is_done_and_leave_out_the_others(tmp_path: Path) -> None:
    values = {"paper": [4.0, 5.0], "better": [2.0, 2.6], "waiting": []}
    for arm, numbers in values.items():
        for seed, number in enumerate(numbers):
            place = tmp_path / arm / f"seed_{seed}"
            place.mkdir(parents=True)
            measures = dict.fromkeys(MEASURES, number) | {"seconds": {}}
            (place / "measures.json").write_text(json.dumps(measures))
    assert write_results(tmp_path, list(values), seeds=3) == {"paper": 2, "better": 2}
    text = (tmp_path / "table.md").read_text()
    assert "| better | 2 | **2.3 (0.51:" in text and "waiting" not in text
    assert (tmp_path / "study.png").read_bytes()[:4] == b"\x89PNG"


def test_a_measure_that_a_trial_lacks_stays_empty() -> None:
    trials = {0: dict.fromkeys(MEASURES, 1.0)}
    assert table({"paper": trials, "other": {0: trials[0] | {}}}).count("| 1 |") > 2
    del trials[0]["spikes"]
    assert "|  |" in table({"paper": trials})


def test_an_arm_that_was_another_does_not_take_over_its_trials(tmp_path: Path) -> None:
    file = tmp_path / "arms" / "a.json"
    for _ in range(2):
        note_arm(file, Arm(short={"steps": 5}))
    with pytest.raises(ValueError, match="says that a is something else: rename it"):
        note_arm(file, Arm(short={"steps": 6}))
    assert json.loads(file.read_text())["short"] == {"steps": 5}


def test_arms_may_be_called_by_numbers_and_hold_parts_of_an_arm_alone(tmp_path: Path) -> None:
    file = tmp_path / "arms.yaml"
    file.write_text("_: {x: 0}\n2: {}\nyes: {short: {steps: 5}}")
    assert read_arms(str(file)) == {"2": Arm(), "True": Arm(short={"steps": 5})}
    for wrong in ("1: {dlt: {}}", "1: 5"):
        file.write_text(wrong)
        with pytest.raises(ValueError, match="give 1 some of dit, vae, short, long, of, not"):
            read_arms(str(file))


def test_two_arms_do_not_mean_different_things_by_one_stage_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "arms.yaml"
    file.write_text("a: {vae: {name: v, data: {seed: 1}}}\nb: {vae: {name: v, data: {seed: 2}}}")
    with pytest.raises(SystemExit):
        main([f"--out={tmp_path / 'out'}", f"--arms={file}"])
    assert "v.json says that v is something else: rename it" in capsys.readouterr().err
    assert not (tmp_path / "out" / "arms" / "b.json").exists()


def test_an_arm_may_sample_the_networks_of_another(tmp_path: Path) -> None:
    file = tmp_path / "arms.yaml"
    file.write_text("a: {vae: {name: other}}\nb: {of: a, short: {steps: 5}}")
    arms = read_arms(str(file))
    assert arms["b"].stage_1 == "other" and arms["b"].short == {"steps": 5}
    for wrong in ("{of: c}", "{of: b}", "{of: a, dit: {model: {}}}"):
        file.write_text(f"a: {{}}\nb: {wrong}")
        with pytest.raises(ValueError, match="name an arm that is trained"):
            read_arms(str(file))


def test_clips_are_spread_evenly_and_none_is_taken_twice() -> None:
    long, short = torch.arange(64), torch.arange(17)
    videos = [repeat(frames, "f -> f 3 2 2") for frames in (long, short)]
    first = clips_of(videos, count=8)[:, 0, 0, 0, 0].tolist()
    assert first == [0, 16, 32, 48, 0, 1]


def test_long_videos_are_compared_in_clips_where_real_ones_are_short() -> None:
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(256, (12, 16, 3, 64, 64), generator=generator, dtype=torch.uint8)
    real = {"short": describe(clips), "motion_short": torch.tensor(motion(clips))}
    real["first"] = describe(clips[:, :1])
    joined = rearrange(clips, "(n k) f c h w -> n (k f) c h w", k=2)
    found = measure({"short": clips, "long": joined}, real=real)
    assert found["frechet_long"] == pytest.approx(found["frechet_short"], abs=1e-3)
    assert found["motion_long"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "options, message",
    [
        ("--root somewhere", "--held_out"),
        ("--arms nothing.yaml", "nothing.yaml"),
        ("--only [nobody]", "nobody"),
        ("--frames 16", "frames"),
        ("--seeds 0", "seeds"),
    ],
)
def test_wrong_options_are_told_in_one_sentence(
    options: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--out", str(tmp_path / "out"), *options.split()])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_studies_are_where_the_command_looks() -> None:
    assert (STUDIES / "skies.yaml").is_file()
