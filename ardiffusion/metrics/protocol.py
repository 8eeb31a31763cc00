"""What a Fréchet video distance is measured on: which clips, how prepared, which network.

Numbers are comparable only where all of this agrees, so a protocol can `describe` itself and a
score carries that description.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ardiffusion.metrics.features import VideoFeatures
from ardiffusion.metrics.i3d import SIDE, I3DPretrained400, I3DTorchScript
from ardiffusion.metrics.reencoding import resize_bicubic, through_mp4v
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

    def windows(self, lengths: Sequence[int], step: int) -> list[Clip]:
        """List all clips of all videos that start at a multiple of `step` frames."""
        return [
            Clip(i, start)
            for i, length in enumerate(lengths)
            for start in range(0, length - self.span + 1, step)
        ]

    def choice_warnings(self, real: Sequence[int], fake: Sequence[int]) -> list[str]:
        """Say what is doubtful about the choice of clips, given the numbers of frames."""
        return []

    def prepare(self, video: Tensor) -> Tensor:
        """Turn uint8 videos (B, F, 3, H, W) into what the network takes, floats in [-1, 1] too."""
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


class StyleGANV(Protocol):
    """FVD as StyleGAN-V measures it (Skorokhodov et al., CVPR 2022) and most papers since.

    One clip of each video, videos in order: real clips from a random frame on, generated ones from
    the first. Real videos of fewer than `frames` times `stride` frames are left out, although a
    clip spans stride - 1 frames less; so are generated ones shorter than a clip. If fewer than
    `videos` are left on a side, it has only those. The network gets bytes and scales and resizes
    them itself, covariances are divided by N. Papers use 2048 videos of the training split at
    256 x 256 pixels (UCF-101: training and test); their FVD_128 has 128 frames, and 16 frames at
    stride 8 is a third one.
    """

    def real(self, lengths: Sequence[int]) -> list[Clip]:
        return [
            Clip(i, random.Random(f"{self.seed}/{i}").randrange(lengths[i] - self.span + 1))
            for i, _ in self.first_clips(lengths, min_frames=self.min_frames)
        ]

    @property
    def min_frames(self) -> int:
        return self.frames * self.stride

    def describe(self) -> dict[str, Any]:
        rule = "one clip per video from a random frame, videos in order"
        if self.stride > 1:
            rule += f", those of {self.min_frames} frames or more"
        return super().describe() | {"real": rule}


class OfficialARDiffusion(Protocol):
    """FVD as the code released with AR-Diffusion measures it (Sun et al., CVPR 2025).

    Real clips are drawn from all windows of the training videos, so there may be several of one
    video; generated ones are the first frames of each. Both are written as MPEG-4 part 2 and read
    back, resized by Pillow's bicubic filter to 224 x 224, and the whole clip goes through the
    network at once; covariances are divided by N - 1. That code shuffles without a seed, so its
    own numbers differ from run to run.

    Args:
        frames: Frames per clip.
        videos: Clips of each side at most; the released scripts use 256.
        clip_stride: Frames between the starts of two windows: 1 for Sky Timelapse, 16 for
            FaceForensics, 64 for TaiChi-HD and 128 for UCF-101 in the released scripts.
        seed: Seed of the draw of real clips.
        extractor: Feature network; I3DPretrained400 by default.
    """

    ddof = 1
    recorded_name = "ARDiffusion"

    def __init__(
        self,
        frames: int = 16,
        videos: int = 256,
        clip_stride: int = 1,
        seed: int = 0,
        extractor: VideoFeatures | None = None,
    ) -> None:
        check_range("{} of a protocol", 1, LARGEST, clip_stride=clip_stride)
        super().__init__(frames, videos, seed=seed, extractor=extractor or I3DPretrained400())
        self.clip_stride = clip_stride

    def real(self, lengths: Sequence[int]) -> list[Clip]:
        windows = self.windows(lengths, step=self.clip_stride)
        random.Random(self.seed).shuffle(windows)
        return windows[: self.videos]

    def prepare(self, video: Tensor) -> Tensor:
        resized = torch.stack([resize_bicubic(through_mp4v(clip), side=SIDE) for clip in video])
        return resized / 127.5 - 1

    def preparation(self) -> dict[str, Any]:
        resize = f"Pillow bicubic to {SIDE} x {SIDE}"
        return super().preparation() | {"resize": resize, "reencoded": "mp4v"}

    def describe(self) -> dict[str, Any]:
        rule = f"random windows of all videos, starting every {self.clip_stride} frames"
        return super().describe() | {"real": rule}


class EveryClip(Protocol):
    """Fréchet distance of all clips on both sides, for small data sets of one's own.

    Each video is cut into clips that follow each other; what is left at its end is not used. Of
    more than `videos` clips on a side the first are taken, and the record warns of it.

    Args:
        frames: Frames per clip.
        videos: Clips of each side at most, the first ones.
        stride: Step between two frames of a clip.
        extractor: Feature network; I3DTorchScript by default, Random3D needs no download.
    """

    def __init__(
        self,
        frames: int = 16,
        videos: int = 2048,
        stride: int = 1,
        extractor: VideoFeatures | None = None,
    ) -> None:
        super().__init__(frames, videos, stride, extractor=extractor)

    def real(self, lengths: Sequence[int]) -> list[Clip]:
        return self.windows(lengths, step=self.frames * self.stride)[: self.videos]

    fake = real

    def choice_warnings(self, real: Sequence[int], fake: Sequence[int]) -> list[str]:
        step = self.frames * self.stride
        counts = [len(self.windows(lengths, step=step)) for lengths in (real, fake)]
        if max(counts) <= self.videos:
            return []
        return [
            f"Not every clip was taken: of {counts[0]} real and {counts[1]} generated ones only "
            f"the first {self.videos} of each side."
        ]

    def describe(self) -> dict[str, Any]:
        rule = "clips that follow each other, videos in order, the first `videos` at most"
        return super().describe() | {"real": rule, "fake": rule}
