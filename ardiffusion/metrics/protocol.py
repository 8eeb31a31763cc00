"""What a Fréchet video distance is measured on: which clips, how prepared, which network.

Numbers are comparable only where all of this agrees, so a protocol can `describe` itself and a
score carries that description. `StyleGANV` is what most papers since 2022 follow,
`OfficialARDiffusion` is what the code released with AR-Diffusion does, `EveryClip` is for small
data sets of one's own.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ardiffusion.metrics.features import VideoFeatures
from ardiffusion.metrics.i3d import SIDE, I3DPretrained400
from ardiffusion.metrics.protocol_base import Clip, Protocol
from ardiffusion.metrics.reencoding import resize_bicubic, through_mp4v
from ardiffusion.nn.sizes import LARGEST, check_range


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
        """Frames that a real video needs to have; StyleGAN-V asks for more than a clip spans."""
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
        network = extractor or I3DPretrained400()
        super().__init__(frames, videos, seed=seed, extractor=network)
        self.clip_stride = clip_stride

    def real(self, lengths: Sequence[int]) -> list[Clip]:
        windows = every_clip(lengths, span=self.span, step=self.clip_stride)
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
        return self.all_clips(lengths)[: self.videos]

    fake = real

    def all_clips(self, lengths: Sequence[int]) -> list[Clip]:
        """List all clips, also those beyond the first `videos`."""
        return every_clip(lengths, span=self.span, step=self.frames * self.stride)

    def choice_warnings(self, real: Sequence[int], fake: Sequence[int]) -> list[str]:
        counts = [len(self.all_clips(lengths)) for lengths in (real, fake)]
        if max(counts) <= self.videos:
            return []
        return [
            f"Not every clip was taken: of {counts[0]} real and {counts[1]} generated ones only "
            f"the first {self.videos} of each side."
        ]

    def describe(self) -> dict[str, Any]:
        rule = "clips that follow each other, videos in order, the first `videos` at most"
        return super().describe() | {"real": rule, "fake": rule}


def every_clip(lengths: Sequence[int], span: int, step: int) -> list[Clip]:
    """List the clips of so many frames in each video, one every `step` frames."""
    return [
        Clip(i, start)
        for i, length in enumerate(lengths)
        for start in range(0, length - span + 1, step)
    ]
