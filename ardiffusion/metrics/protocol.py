"""What a Fréchet video distance is measured on: which clips, how prepared, which network.

Numbers are comparable only where all of this agrees, so a protocol can `describe` itself and a
score carries that description. `StyleGANV` is what most papers since 2022 follow, `ARDiffusion` is
what the code released with AR-Diffusion does, `EveryClip` is for small data sets of one's own.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ardiffusion.metrics.features import I3D, VideoFeatures, network_hash, network_name
from ardiffusion.metrics.i3d import SIDE, InceptionI3D
from ardiffusion.metrics.mp4v import through_mp4v
from ardiffusion.metrics.pillow import bicubic


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
        extractor: Feature network.

    Attributes:
        ddof: What the covariance is divided by is the number of clips less this.
        split: Where the published numbers take their real videos from.
    """

    ddof: int = 0
    split: str

    def __init__(
        self, frames: int, videos: int, stride: int, seed: int, extractor: VideoFeatures
    ) -> None:
        for name, value in (("frames", frames), ("videos", videos), ("stride", stride)):
            if value < 1:
                raise ValueError(f"{name} of a protocol must be at least 1, got {value}.")
        self.frames, self.videos, self.stride, self.seed = frames, videos, stride, seed
        self.extractor = extractor

    @property
    def span(self) -> int:
        """Frames from the first to the last of a clip."""
        return (self.frames - 1) * self.stride + 1

    @property
    def metric(self) -> str:
        """What the distance is called: `fvd_16` for I3D, else as `frechet_random3d_16`."""
        if isinstance(self.extractor, I3D | InceptionI3D):
            return f"fvd_{self.frames}"
        return f"frechet_{network_name(self.extractor)}_{self.frames}"

    @abstractmethod
    def real(self, lengths: Sequence[int]) -> list[Clip]:
        """Choose clips of real videos, given their numbers of frames."""

    def fake(self, lengths: Sequence[int]) -> list[Clip]:
        """Choose clips of generated videos, given their numbers of frames."""
        return self.first(lengths)

    def first(self, lengths: Sequence[int]) -> list[Clip]:
        """Choose the first clip of each video that is long enough."""
        long = [Clip(i, 0) for i, length in enumerate(lengths) if length >= self.span]
        return long[: self.videos]

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
            "network": network_name(self.extractor),
            "network_hash": network_hash(self.extractor),
        }

    def describe(self) -> dict[str, Any]:
        """Say everything that two scores must agree on; the seed is not part of it."""
        return {
            "name": type(self).__name__,
            **self.preparation(),
            "videos": self.videos,
            "covariance": "1/(N-1)" if self.ddof else "1/N",
            "fake": "first frames of each video, videos in order",
        }


class StyleGANV(Protocol):
    """FVD as StyleGAN-V measures it (Skorokhodov et al., CVPR 2022) and most papers since.

    One clip of each video, videos in order: real clips from a random frame on, generated ones from
    the first. Videos shorter than a clip are left out; if fewer than `videos` are left on a side,
    it has only those. The network gets bytes and scales and resizes them itself, covariances are
    divided by N. Papers use 2048 videos of the training split at 256 x 256 pixels (UCF-101:
    training and test); their FVD_128 has 128 frames, and 16 frames at stride 8 is a third one.

    Args:
        frames: Frames per clip.
        videos: Clips of each side at most.
        stride: Step between two frames of a clip.
        seed: Seed of the real clips' offsets.
        extractor: Feature network; I3D by default.
    """

    split = "train (UCF-101: train and test)"

    def __init__(
        self,
        frames: int = 16,
        videos: int = 2048,
        stride: int = 1,
        seed: int = 0,
        extractor: VideoFeatures | None = None,
    ) -> None:
        super().__init__(frames, videos, stride, seed=seed, extractor=extractor or I3D())

    def real(self, lengths: Sequence[int]) -> list[Clip]:
        return [
            Clip(i, random.Random(f"{self.seed}/{i}").randrange(lengths[i] - self.span + 1))
            for i, _ in self.first(lengths)
        ]

    def describe(self) -> dict[str, Any]:
        rule = "one clip per video from a random frame, videos in order"
        return super().describe() | {"real": rule}


class ARDiffusion(Protocol):
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
        extractor: Feature network; InceptionI3D with the weights i3d_pretrained_400 by default.
    """

    ddof = 1
    split = "train"

    def __init__(
        self,
        frames: int = 16,
        videos: int = 256,
        clip_stride: int = 1,
        seed: int = 0,
        extractor: VideoFeatures | None = None,
    ) -> None:
        if clip_stride < 1:
            raise ValueError(f"clip_stride of a protocol must be at least 1, got {clip_stride}.")
        super().__init__(
            frames, videos, stride=1, seed=seed, extractor=extractor or InceptionI3D()
        )
        self.clip_stride = clip_stride

    def real(self, lengths: Sequence[int]) -> list[Clip]:
        windows = [
            Clip(i, start)
            for i, length in enumerate(lengths)
            for start in range(0, length - self.span + 1, self.clip_stride)
        ]
        random.Random(self.seed).shuffle(windows)
        return windows[: self.videos]

    def prepare(self, video: Tensor) -> Tensor:
        resized = torch.stack([bicubic(through_mp4v(clip), side=SIDE) for clip in video])
        return resized / 127.5 - 1

    def preparation(self) -> dict[str, Any]:
        resize = f"Pillow bicubic to {SIDE} x {SIDE}"
        return super().preparation() | {"resize": resize, "reencoded": "mp4v"}

    def describe(self) -> dict[str, Any]:
        rule = f"random windows of all videos, starting every {self.clip_stride} frames"
        return super().describe() | {"real": rule}


class EveryClip(Protocol):
    """Fréchet distance of all clips on both sides, for small data sets of one's own.

    Each video is cut into clips that follow each other; what is left at its end is not used.

    Args:
        frames: Frames per clip.
        videos: Clips of each side at most, the first ones.
        stride: Step between two frames of a clip.
        extractor: Feature network; I3D by default, Random3D needs no download.
    """

    split = "any"

    def __init__(
        self,
        frames: int = 16,
        videos: int = 2048,
        stride: int = 1,
        extractor: VideoFeatures | None = None,
    ) -> None:
        super().__init__(frames, videos, stride, seed=0, extractor=extractor or I3D())

    def real(self, lengths: Sequence[int]) -> list[Clip]:
        clips = [
            Clip(i, start)
            for i, length in enumerate(lengths)
            for start in range(0, length - self.span + 1, self.frames * self.stride)
        ]
        return clips[: self.videos]

    fake = real

    def describe(self) -> dict[str, Any]:
        rule = "all clips that follow each other, videos in order"
        return super().describe() | {"real": rule, "fake": rule}
