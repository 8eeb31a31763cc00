"""The data sets with published weights: where those are, and how their authors sampled them."""

from dataclasses import dataclass
from typing import Any

from ardiffusion.diffusion.solver import PublishedDDIM
from ardiffusion.diffusion.target import X0

REPOSITORY = "TrizZZZ/ar_diffusion"

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
    """A data set with published weights.

    Attributes:
        title: The data set's name.
        words: What the paths of its files may contain, in lower case.
        repository: The repository of the weights on the Hub.
        classes: Names of the classes of its class-conditional model.
    """

    title: str
    words: tuple[str, ...]
    repository: str = REPOSITORY
    classes: tuple[str, ...] = ()


PRESETS = {
    "sky": Preset(title="Sky Timelapse", words=("sky",)),
    "taichi": Preset(title="TaiChi-HD", words=("taichi", "tai_chi", "tai-chi")),
    "ucf101": Preset(title="UCF-101", words=("ucf",), classes=UCF101_CLASSES),
    "ffs": Preset(title="FaceForensics", words=("face", "ffs")),
}


def preset(dataset: str) -> Preset:
    """Return the preset of a data set."""
    if dataset not in PRESETS:
        known = ", ".join(PRESETS)
        raise ValueError(f"There are no published weights for {dataset}, only for {known}.")
    return PRESETS[dataset]
