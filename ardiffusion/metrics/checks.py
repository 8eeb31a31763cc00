"""Mistakes that spoil a Fréchet distance without a trace, each told in one sentence."""

import torch
from torch import Tensor

ENOUGH = 256  # clips from which papers give numbers
ONE_VIDEO = "One side has a single video, which says nothing of how videos scatter: no interval."


def check_clip(video: Tensor, name: str, frames: int) -> None:
    if video.dtype != torch.uint8 or video.ndim != 4 or video.shape[:2] != (frames, 3):
        raise ValueError(
            f"{name} gives clips of {video.dtype} and shape {tuple(video.shape)}, but the "
            f"distance is of uint8 clips (F, 3, H, W) of {frames} frames with values from 0 to "
            "255; convert them first."
        )


def check_size(one: str, size: tuple[int, int], other: str, others: tuple[int, int]) -> None:
    if size != others:
        folders = one if one == other else f"{one} and {other}"
        raise ValueError(
            f"The frames of {folders} differ in size ({size[1]} x {size[0]} and {others[1]} x "
            f"{others[0]} pixels); give a --resolution that all are scaled and cropped to."
        )


def range_mismatch(one: str, highest: int, other: str, others: int) -> str | None:
    """Say so if one side has no value above 1, and the other has: it was written as floats."""
    if others <= 1 < highest:
        return range_mismatch(other, others, one, highest)
    if not highest <= 1 < others:
        return None
    return f"No value in {one} is above {highest}, while {other} reaches {others}"


def warnings_about(clips: int, width: int) -> list[str]:
    """Say what is doubtful about a distance with so few clips on a side, of so many features."""
    found = []
    if clips < ENOUGH:
        found.append(
            f"There are only {clips} clips on one side: below {ENOUGH} the distance is biased "
            "upwards so much that it compares only with others of exactly as many."
        )
    if clips <= width:
        found.append(
            f"{clips} clips are too few for {width} features: the covariance is singular, and the "
            "distance mostly tells how many clips there are."
        )
    return found
