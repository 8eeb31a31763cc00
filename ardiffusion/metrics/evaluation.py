"""Fréchet distances between two folders of videos, with all that they depend on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ardiffusion.metrics.bootstrap import distance
from ardiffusion.metrics.bootstrap import interval as interval_of
from ardiffusion.metrics.checks import (
    ONE_VIDEO,
    check_frames,
    check_range,
    check_size,
    darkness,
    doubts,
)
from ardiffusion.metrics.clip_features import Described, Videos, describe, look
from ardiffusion.metrics.features import network_hash, network_name
from ardiffusion.metrics.protocol import Clip, Protocol
from ardiffusion.metrics.score import Score


def evaluate(
    protocol: Protocol,
    real: Videos,
    fake: Videos,
    split: str,
    cache: str | Path | None = None,
    bootstrap: int = 200,
    seed: int = 0,
    paired: bool = False,
    device: torch.device | str = "cpu",
    advance: Callable[[int], object] = lambda clips: None,
) -> Score:
    """Measure the Fréchet distance between real and generated videos.

    Args:
        protocol: How to measure.
        real: The real videos.
        fake: The generated videos.
        split: Which split the real videos are, recorded with the score.
        cache: Folder to keep features in; without one they are forgotten.
        bootstrap: Draws of the confidence interval; 0 leaves it out.
        seed: Seed of those draws.
        paired: Whether the videos of one place on both sides are drawn together.
        device: Where the feature network runs.
        advance: Told how many clips have been described since it was told last.
    """
    check_frames(protocol)
    clips = choose(protocol, real, fake)
    protocol.extractor.load()
    check_frames(protocol)  # once more: some networks know it only when they are loaded
    made = real.made or fake.made
    if not made:
        # Once more below, but nobody wants to hear of it after an hour.
        sizes = [look(v, c[0], protocol.frames) for v, c in zip((real, fake), clips, strict=True)]
        check_size(real.name, sizes[0], fake.name, sizes[1])
    options = {"cache": cache, "device": device, "advance": advance}
    first, second = (
        describe(protocol, videos, chosen, **options)
        for videos, chosen in zip((real, fake), clips, strict=True)
    )
    check_size(real.name, first.size, fake.name, second.size)
    warnings = protocol.doubts(real.lengths, fake.lengths)
    ranges = real.name, first.highest, fake.name, second.highest
    if not made:
        check_range(*ranges)
    elif dark := darkness(*ranges):
        # Networks that have hardly learnt anything make black videos: no reason to stop them.
        warnings.append(f"{dark}: they are black.")
    score = between(protocol, first, second, bootstrap=bootstrap, seed=seed, paired=paired)
    names = {"real": Path(real.name).name, "fake": Path(fake.name).name}
    warnings = score.warnings + warnings
    return replace(score, split=split, data=names | score.data, warnings=warnings)


def between(
    protocol: Protocol,
    real: Described,
    fake: Described,
    bootstrap: int,
    seed: int,
    paired: bool = False,
) -> Score:
    """Return the score of features, which knows nothing of where they come from."""
    features = real.features, fake.features
    warnings = doubts(min(map(len, features)), width=features[0].shape[1])
    interval = None
    if bootstrap:
        numbers = [c.video for c in real.clips], [c.video for c in fake.clips]
        interval = interval_of(
            *features,
            videos=numbers,
            ddof=protocol.ddof,
            draws=bootstrap,
            seed=seed,
            paired=paired,
        )
        warnings += [ONE_VIDEO] if interval is None else []
    network = protocol.extractor
    return Score(
        metric=protocol.metric,
        value=distance(*features, ddof=protocol.ddof),
        interval=interval,
        protocol=protocol.describe(),
        real=len(real.clips),
        fake=len(fake.clips),
        split="",
        stride=protocol.stride,
        resolution=min(real.size),
        seeds={"protocol": protocol.seed, "bootstrap": seed},
        network={"name": network_name(network), "hash": network_hash(network)},
        data={"size": list(real.size)},
        warnings=warnings,
    )


def choose(protocol: Protocol, real: Videos, fake: Videos) -> tuple[list[Clip], list[Clip]]:
    """Choose the clips of both sides; there must be two or more of each."""
    clips = protocol.real(real.lengths), protocol.fake(fake.lengths)
    needed = protocol.least, protocol.span
    for videos, chosen, least in zip((real, fake), clips, needed, strict=True):
        if len(chosen) < 2:
            asked = f" of {least} that are asked for" if least > protocol.span else " frames"
            raise ValueError(
                f"{videos.name} gives {len(chosen)} clips of {protocol.span} frames, and a "
                f"Fréchet distance needs two or more (its longest video has "
                f"{max(videos.lengths, default=0)}{asked}): use more or longer videos, or fewer "
                "frames."
            )
    return clips
