"""Distances between two folders of videos, with all that they depend on."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ardiffusion.metrics.bootstrap import ONE_VIDEO, Bootstrap, Distances, distance_interval
from ardiffusion.metrics.clip_features import Videos, check_size, extract_features, prepare_clip
from ardiffusion.metrics.frechet import feature_distance
from ardiffusion.metrics.kernel import kernel_distance, kernel_distances
from ardiffusion.metrics.parallel import in_threads
from ardiffusion.metrics.protocol import Clip, Protocol
from ardiffusion.metrics.score import Score
from ardiffusion.metrics.store import Chunk

ENOUGH = 256  # clips from which papers give numbers


def evaluate(
    protocol: Protocol,
    real: Videos,
    fake: Videos,
    split: str,
    cache: str | Path | None = None,
    bootstrap: Bootstrap | None = None,
    device: torch.device | str = "cpu",
    advance: Callable[[int], object] = lambda clips: None,
) -> list[Score]:
    """Measure the Fréchet and the kernel distance between real and generated videos.

    Args:
        protocol: How to measure.
        real: The real videos.
        fake: The generated videos.
        split: Which split the real videos are, recorded with the score.
        cache: Folder to keep features in; without one they are forgotten.
        bootstrap: How videos are drawn for the confidence interval; without it there is none.
        device: Where the feature network runs.
        advance: Told how many clips have been described since it was told last.
    """
    sides, made = (real, fake), real.made or fake.made
    protocol.check_frames()
    clips = select_clips(protocol, real, fake)
    protocol.load()
    if not made:
        # Once more below, but nobody wants to hear of it after an hour.
        sizes = [prepare_clip(protocol, v, c[0]).size for v, c in zip(sides, clips, strict=True)]
        check_size(real.name, sizes[0], fake.name, sizes[1])
    first, second = (
        extract_features(protocol, v, c, cache=cache, device=device, advance=advance)
        for v, c in zip(sides, clips, strict=True)
    )
    check_size(real.name, first.size, fake.name, second.size)
    warnings = protocol.choice_warnings(real.lengths, fake.lengths)
    if dark := range_mismatch(real.name, first.highest, fake.name, second.highest):
        if not made:
            raise ValueError(
                f"{dark}: they are floats from 0 to 1 that were made bytes, or black; write them "
                "times 255."
            )
        # Networks that have hardly learnt anything make black videos: no reason to stop them.
        warnings.append(f"{dark}: they are black.")
    scores = score_features(protocol, clips, (first, second), split=split, bootstrap=bootstrap)
    names = {"real": Path(real.name).name, "fake": Path(fake.name).name}
    return [replace(s, data=names | s.data, warnings=s.warnings + warnings) for s in scores]


def score_features(
    protocol: Protocol,
    clips: tuple[list[Clip], list[Clip]],
    features: tuple[Chunk, Chunk],
    split: str,
    bootstrap: Bootstrap | None,
) -> list[Score]:
    """Return both scores of features, which know nothing of where they come from."""
    (real, fake), described = (chunk.rows for chunk in features), protocol.describe()
    videos = [clip.video for clip in clips[0]], [clip.video for clip in clips[1]]

    def score(
        metric: str, value: float, draws: Distances, doubts: list[str], lowest: float = -math.inf
    ) -> Score:
        interval = None
        if bootstrap is not None:
            interval = distance_interval(draws, value, videos, bootstrap, lowest)
            doubts = doubts + ([ONE_VIDEO] if interval is None else [])
        return Score(
            metric=metric,
            value=value,
            interval=interval,
            protocol=described,
            real=len(real),
            fake=len(fake),
            split=split,
            stride=protocol.stride,
            resolution=min(features[0].size),
            seeds={"protocol": protocol.seed, "bootstrap": bootstrap.seed if bootstrap else 0},
            network={"name": described["network"], "hash": described["network_hash"]},
            data={"size": list(features[0].size)},
            warnings=doubts,
        )

    frechet = partial(feature_distance, real, fake, protocol.ddof)
    kernels, named = partial(kernel_distances, real, fake), f"kernel_{protocol.extractor.name}"
    few = warnings_about(min(len(real), len(fake)), width=real.shape[1])
    return [
        score(protocol.metric, frechet(), partial(in_threads, frechet), doubts=few, lowest=0.0),
        score(f"{named}_{protocol.frames}", kernel_distance(real, fake), kernels, doubts=[]),
    ]


def select_clips(protocol: Protocol, real: Videos, fake: Videos) -> tuple[list[Clip], list[Clip]]:
    clips = protocol.real(real.lengths), protocol.fake(fake.lengths)
    needed = protocol.min_frames, protocol.span
    for videos, selected, frames in zip((real, fake), clips, needed, strict=True):
        if len(selected) < 2:
            asked = f" of {frames} that are asked for" if frames > protocol.span else " frames"
            raise ValueError(
                f"{videos.name} gives {len(selected)} clips of {protocol.span} frames, and a "
                f"Fréchet distance needs two or more (its longest video has "
                f"{max(videos.lengths, default=0)}{asked}): use more or longer videos, or fewer "
                "frames."
            )
    return clips


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
