"""How far a Fréchet distance may be off by the choice of videos: a bootstrap over videos.

A Fréchet distance of N videos is biased upwards, and one of videos drawn with replacement from
those N once more: its covariances lose rank, so that all draws may lie above the value they belong
to. Plain quantiles of the draws would then not even contain it. What the draws do tell is how far
they scatter. So their quantiles are shifted by the difference between the value and their mean
(Efron's estimate of the bias), which centres the interval on the value: about 95 % of intervals
made so are meant to contain the mean over repetitions with other videos, as many as here. Single
repetitions lie outside more often. The bias that the number of videos brings stays in the value
and in that mean, which is why values of different numbers do not compare.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from einops import reduce
from torch import Generator, Tensor

# Of draws, each of which says how often every clip of both sides counts.
Distances = Callable[[Sequence[Sequence[Tensor]]], Sequence[float]]
CONFIDENCE = 0.95
ONE_VIDEO = "One side has a single video, which says nothing of how videos scatter: no interval."


class Bootstrap(NamedTuple):
    """How many times, by which seed and whether in pairs videos are drawn.

    The videos of one number on both sides may be a pair, as a video and its reconstruction, of
    which both are drawn or neither; what pairs have in common then does not widen the range. Where
    a video has clips on one side alone, sides are drawn apart all the same.
    """

    draws: int = 200
    seed: int = 0
    paired: bool = False


def distance_interval(
    distances: Distances,
    value: float,
    videos: tuple[Sequence[int], Sequence[int]],
    bootstrap: Bootstrap,
    lowest: float = -math.inf,
) -> tuple[float, float] | None:
    """Return a range that contains the mean over repetitions with as many other videos.

    About 95 % of such ranges do. There is none where a side has fewer than two videos. These are
    drawn with all their clips, because clips of one video are alike.

    Args:
        distances: Computes the distance of each draw.
        value: The distance when each counts once.
        videos: For each clip of both sides, which video it is of.
        bootstrap: How videos are drawn.
        lowest: What the distance is never below.
    """
    if min(len(set(side)) for side in videos) < 2:
        return None
    generator = torch.Generator().manual_seed(bootstrap.seed)
    paired = bootstrap.paired and set(videos[0]) == set(videos[1])
    drawn_apart = [[*videos[0], *videos[1]]] if paired else videos
    places = [torch.tensor(side).unique(return_inverse=True)[1] for side in drawn_apart]
    lengths = [len(side) for side in videos]
    counts = [
        torch.cat([draw_videos(side, generator) for side in places]).split(lengths)
        for _ in range(bootstrap.draws)
    ]
    drawn = torch.tensor(distances(counts), dtype=torch.float64)
    low, high = (percentile_interval(drawn) + value - drawn.mean()).tolist()
    return max(low, lowest), high


def mean_interval(values: Tensor, bootstrap: Bootstrap) -> tuple[float, float] | None:
    """Return the same range for the mean of one value per video, (N,); none of a single one."""
    if len(values) < 2:
        return None
    generator = torch.Generator().manual_seed(bootstrap.seed)
    size = bootstrap.draws, len(values)
    chosen = values.double()[torch.randint(len(values), size, generator=generator)]
    low, high = percentile_interval(reduce(chosen, "k n -> k", "mean")).tolist()
    return low, high


def percentile_interval(drawn: Tensor) -> Tensor:
    """Return the quantiles that 95 % of drawn numbers (K,) lie between, (2,)."""
    tail = (1 - CONFIDENCE) / 2
    return drawn.quantile(drawn.new_tensor([tail, 1 - tail]))


def draw_videos(places: Tensor, generator: Generator) -> Tensor:
    """Draw as many videos as there are with replacement; return how often each clip counts.

    `places` numbers, from 0 on and without gaps, the video that each clip is of.
    """
    videos = int(places.max()) + 1
    chosen = torch.randint(videos, (videos,), generator=generator)
    return chosen.bincount(minlength=videos)[places]
