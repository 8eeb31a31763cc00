"""A measured number with everything that decides what it can be compared with."""

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, get_type_hints

from ardiffusion.files import atomic_write, has_type, read_text

COMPARED = ("metric", "protocol", "real", "fake", "split", "stride", "resolution", "network")


@dataclass(frozen=True)
class Score:
    """A measured number and how it was measured; one JSON object on disk.

    About 95 % of such intervals contain the mean over repetitions with as many other videos.
    """

    metric: str  # as fvd_16, frechet_random3d_16 or psnr
    value: float
    protocol: dict[str, Any]  # what `Protocol.describe` says, or the like
    real: int  # number of real clips
    fake: int  # number of generated clips
    split: str  # where the real videos come from
    stride: int  # step between two frames of a clip
    resolution: int  # short side of the frames in pixels
    network: dict[str, str]  # name and hash of the feature network
    interval: tuple[float, float] | None = None
    seeds: dict[str, Any] = field(default_factory=dict)  # of the videos and the protocol
    weights: str | None = None  # fingerprint of the model that generated, if known
    versions: dict[str, str] = field(default_factory=lambda: versions())
    data: dict[str, Any] = field(default_factory=dict)  # folders and what else is known
    warnings: list[str] = field(default_factory=list)  # what makes the number doubtful

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.value, *(self.interval or ())))):
            raise ValueError(
                f"{self.metric} came out as {self.value} with the interval {self.interval}, which "
                "is no score: look for videos or weights that are broken."
            )

    def line(self) -> str:
        """Say the number and what matters most in one line."""
        between = ""
        if self.interval is not None:
            between = " (95 %: {:.4g} to {:.4g})".format(*self.interval)
        return (
            f"{self.metric} = {self.value:.4f}{between}, {self.real} real and {self.fake} "
            f"generated clips at stride {self.stride}, {self.resolution} pixels, split "
            f"{self.split}, {self.protocol['name']}"
        )

    def compared(self) -> dict[str, Any]:
        """Return what two scores must agree on; frames without a size on record are square."""
        size = list(self.data.get("size") or (self.resolution, self.resolution))
        return {name: getattr(self, name) for name in COMPARED} | {"size": size}

    def save(self, path: str | Path) -> None:
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a record; what is none is told in one sentence."""
        try:
            fields = json.loads(read_text(path))
            if fields["interval"] is not None:
                fields["interval"] = tuple(fields["interval"])
            kinds = get_type_hints(cls)
            if not all(has_type(value, kinds[name]) for name, value in fields.items()):
                raise TypeError
            score = cls(**fields)
            for summarise in (score.line, score.compared):
                summarise()  # which asks for more than types
            return score
        except OSError as error:
            raise OSError(
                f"Cannot read {path} ({error.strerror}): give files that `ardiff fvd` wrote with "
                "--output."
            ) from error
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise ValueError(
                f"{path} holds no score: give files that `ardiff fvd` wrote with --output."
            ) from None


def check_comparable(scores: Sequence[Score], names: Sequence[str] | None = None) -> None:
    """Raise unless all scores were measured alike, naming two that were not and what differs."""
    names = names or [f"{s.metric} of {s.data.get('fake', 'a folder')}" for s in scores]
    flat = [flatten(score.compared()) for score in scores]
    for name, fields in zip(names[1:], flat[1:], strict=True):
        for key in flat[0] | fields:
            first, other = flat[0].get(key), fields.get(key)
            if first != other:
                raise ValueError(
                    f"{names[0]} and {name} do not compare, because {key} is {first!r} in the "
                    f"one and {other!r} in the other: measure both alike."
                )


def versions() -> dict[str, str]:
    packages = ("ardiffusion", "torch", "av", "pillow")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def flatten(fields: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Name the entries of dictionaries within dictionaries as `outer.inner`."""
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        inner = isinstance(value, dict)
        flat |= flatten(value, f"{above}{key}.") if inner else {above + key: value}
    return flat
