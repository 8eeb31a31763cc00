"""The data sets with published weights: where those are, and how their authors sampled them.

Folders of weights are not laid down anywhere, so files are recognised by a word of the data set
in their paths and by the names of the tensors in their headers.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ardiffusion.diffusion.solver import PublishedDDIM
from ardiffusion.diffusion.target import X0
from ardiffusion.files import PICKLED

REPOSITORY = "TrizZZZ/ar_diffusion"
# What else a training run leaves behind, beside weights.
OTHERS = ("optimizer", "scheduler", "scaler", "random", "training_args")

# Indices as in the published model, from 0; the data set's own classInd.txt counts from 1.
UCF101_CLASSES = tuple(
    """
    ApplyEyeMakeup ApplyLipstick Archery BabyCrawling BalanceBeam BandMarching BaseballPitch
    Basketball BasketballDunk BenchPress Biking Billiards BlowDryHair BlowingCandles
    BodyWeightSquats Bowling BoxingPunchingBag BoxingSpeedBag BreastStroke BrushingTeeth
    CleanAndJerk CliffDiving CricketBowling CricketShot CuttingInKitchen Diving Drumming
    Fencing FieldHockeyPenalty FloorGymnastics FrisbeeCatch FrontCrawl GolfSwing Haircut
    Hammering HammerThrow HandstandPushups HandstandWalking HeadMassage HighJump HorseRace
    HorseRiding HulaHoop IceDancing JavelinThrow JugglingBalls JumpingJack JumpRope Kayaking
    Knitting LongJump Lunges MilitaryParade Mixing MoppingFloor Nunchucks ParallelBars
    PizzaTossing PlayingCello PlayingDaf PlayingDhol PlayingFlute PlayingGuitar PlayingPiano
    PlayingSitar PlayingTabla PlayingViolin PoleVault PommelHorse PullUps Punch PushUps Rafting
    RockClimbingIndoor RopeClimbing Rowing SalsaSpin ShavingBeard Shotput SkateBoarding Skiing
    Skijet SkyDiving SoccerJuggling SoccerPenalty StillRings SumoWrestling Surfing Swing
    TableTennisShot TaiChi TennisSwing ThrowDiscus TrampolineJumping Typing UnevenBars
    VolleyballSpiking WalkingWithDog WallPushups WritingOnBoard YoYo
    """.split()
)


def published_sampling() -> dict[str, Any]:
    """Return what the authors' configurations and scripts say, as arguments of a generator.

    They predict x_0, take 50 steps and neighbouring frames 5 apart (50, frame after frame, in the
    paper's comparisons), and guide by 2 up to 16 frames and not at all beyond. Latents are unit
    vectors, whatever scale factor the published configurations state.
    """
    sampling = {"steps": 50, "difference": 5, "guidance": 2.0, "guided_frames": 16}
    return {"target": X0(), "solver": PublishedDDIM(), **sampling}


@dataclass(frozen=True)
class Preset:
    """A data set with published weights."""

    title: str  # the data set's name
    words: tuple[str, ...]  # what the paths of its files may contain, in lower case
    repository: str = REPOSITORY  # of the weights on the Hub
    classes: tuple[str, ...] = ()  # names of those of its class-conditional model


PRESETS = {
    "sky": Preset(title="Sky Timelapse", words=("sky",)),
    "taichi": Preset(title="TaiChi-HD", words=("taichi", "tai_chi", "tai-chi")),
    "ucf101": Preset(title="UCF-101", words=("ucf",), classes=UCF101_CLASSES),
    "ffs": Preset(title="FaceForensics", words=("face", "ffs")),
}


def preset(dataset: str) -> Preset:
    if dataset not in PRESETS:
        known = ", ".join(PRESETS)
        raise ValueError(f"There are no published weights for {dataset}, only for {known}.")
    return PRESETS[dataset]


def kinds_by_entries(entries: Iterable[str]) -> frozenset[str]:
    """Say which networks a file holds by the names of its tensors."""
    names = {entry.removeprefix("module.") for entry in entries}
    stems = {name.split(".")[0] for name in names}
    tokenizer = {name.removeprefix("vae.").split(".")[0] for name in names}
    found = {"dit": "diffusion_model" in stems, "arvae": {"encoder", "decoder"} <= tokenizer}
    return frozenset(kind for kind, holds in found.items() if holds)


def kinds_by_name(path: str) -> frozenset[str]:
    """Say which network a file without a header holds by its name."""
    name = path.lower()
    if not name.endswith(PICKLED) or any(word in name for word in OTHERS):
        return frozenset()
    return frozenset({"dit"} if re.search(r"diff|dit", name) else {"arvae"})


def select_file(kinds: Mapping[str, frozenset[str]], kind: str, preset: Preset) -> list[str]:
    """Choose files of one network alone, with classes if they may, in their latest checkpoint.

    `kinds` says which networks each path holds. Several are left if only the user can choose.
    """
    files = [path for path, held in kinds.items() if kind in held]
    files = [path for path in files if len(kinds[path]) == 1] or files
    if preset.classes:
        files = [path for path in files if "class" in path.lower()] or files
    steps = {path: re.findall(r"checkpoint[-_](\d+)", path) for path in files}
    latest = max((int((found or ["0"])[-1]) for found in steps.values()), default=0)
    return [path for path, found in steps.items() if int((found or ["0"])[-1]) == latest]
