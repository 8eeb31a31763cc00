"""Videos whose frames say which they are, even after MP4: left half video, right half frame."""

from collections.abc import Sequence
from pathlib import Path

import torch
from einops import reduce
from torch import Tensor

from ardiffusion.data.writer import write_video

STEP, DARKEST, SIDE = 6, 24, 32


def numbered(video: int, frames: int, start: int = 0) -> Tensor:
    """Return frames of a numbered video, uint8 (F, 3, 32, 32)."""
    picture = torch.empty(frames, 3, SIDE, SIDE, dtype=torch.uint8)
    picture[..., : SIDE // 2] = DARKEST + STEP * video
    for frame in range(frames):
        picture[frame, ..., SIDE // 2 :] = DARKEST + STEP * (start + frame)
    return picture


def numbers(clip: Tensor) -> list[tuple[int, int]]:
    """Read the video and the frame off each frame of a clip (F, 3, H, W), from 0 to 255."""
    half = clip.shape[-1] // 2
    sides = [clip[..., : half - 2], clip[..., half + 2 :]]
    means = [reduce(side.double(), "f c h w -> f", "mean") for side in sides]
    found = [((mean - DARKEST) / STEP).round().int().tolist() for mean in means]
    return list(zip(*found, strict=True))


def write_numbered(folder: Path, lengths: Sequence[int]) -> Path:
    """Write one numbered video of each length."""
    folder.mkdir(parents=True)
    for video, length in enumerate(lengths):
        write_video(folder / f"{video:03d}.mp4", numbered(video, frames=length))
    return folder
