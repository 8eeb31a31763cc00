"""What every protocol of a Fréchet video distance says: its clips, their preparation, its name."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ardiffusion.metrics.features import VideoFeatures
from ardiffusion.metrics.i3d import I3DTorchScript
from ardiffusion.nn.sizes import LARGEST, check_range


class Clip(NamedTuple):
    """A clip: the number of its video and its first frame."""

    video: int
    start: int


class Protocol(ABC):
    """How a Fréchet video distance is measured.

    Asked for more videos, a protocol returns the same clips and further ones, so that a run can be
    extended.

    Args:
        frames: Frames per clip.
        videos: Clips of each side at most.
        stride: Step between two frames of a clip.
        seed: Seed of what is drawn at random.
        extractor: Feature network; I3DTorchScript by default.
    """

    ddof: int = 0  # what the covariance is divided by is the number of clips less this
    recorded_name: str  # what records call the protocol, if not by its class

    def __init__(
        self,
        frames: int = 16,
        videos: int = 2048,
        stride: int = 1,
        seed: int = 0,
        extractor: VideoFeatures | None = None,
    ) -> None:
        check_range("{} of a protocol", 1, LARGEST, frames=frames, videos=videos, stride=stride)
        self.frames, self.videos, self.stride, self.seed = frames, videos, stride, seed
        self.extractor = extractor or I3DTorchScript()

    @property
    def span(self) -> int:
        """Frames from the first to the last of a clip."""
        return (self.frames - 1) * self.stride + 1

    @property
    def min_frames(self) -> int:
        return self.span

    @property
    def metric(self) -> str:
        """What the distance is called: `fvd_16` for I3D, else as `frechet_random3d_16`."""
        return f"{self.extractor.distance}_{self.frames}"

    def check_frames(self) -> None:
        self.extractor.check_frames(self.frames, source="the protocol takes")

    def load(self) -> None:
        """Fetch what the feature network needs; some know only then how many frames that is."""
        self.extractor.load()
        self.check_frames()

    @abstractmethod
    def real(self, lengths: Sequence[int]) -> list[Clip]:
        """Choose clips of real videos, given their numbers of frames."""

    def fake(self, lengths: Sequence[int]) -> list[Clip]:
        """Choose clips of generated videos, given their numbers of frames."""
        return self.first_clips(lengths, min_frames=self.span)

    def first_clips(self, lengths: Sequence[int], min_frames: int) -> list[Clip]:
        """Choose the first clip of each video of so many frames or more."""
        long = [Clip(i, 0) for i, length in enumerate(lengths) if length >= min_frames]
        return long[: self.videos]

    def choice_warnings(self, real: Sequence[int], fake: Sequence[int]) -> list[str]:
        """Say what is doubtful about the choice of clips, given the numbers of frames."""
        return []

    def prepare(self, video: Tensor) -> Tensor:
        """Turn uint8 videos (B, F, 3, H, W) into what the network is given.

        That is uint8 videos, or floats in [-1, 1] of the size that the network wants.
        """
        return video

    def preparation(self) -> dict[str, Any]:
        """Say what the features of a given clip depend on."""
        return {
            "frames": self.frames,
            "stride": self.stride,
            "resize": "by the network",
            "reencoded": "no",
            "network": self.extractor.name,
            "network_hash": self.extractor.hash,
        }

    def describe(self) -> dict[str, Any]:
        """Say everything that two scores must agree on; the seed is not part of it."""
        kind = type(self)
        return {
            "name": vars(kind).get("recorded_name", kind.__name__),  # not that of a parent
            **self.preparation(),
            "videos": self.videos,
            "covariance": "1/(N-1)" if self.ddof else "1/N",
            "fake": "first frames of each video, videos in order",
        }
