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

from collections.abc import Sequence

import torch
from einops import reduce
from torch import Tensor

from ardiffusion.metrics.frechet import frechet_distance
from ardiffusion.metrics.moments import moments
from ardiffusion.metrics.threads import in_threads, one_thread

CONFIDENCE = 0.95


def distance(
    real: Tensor, fake: Tensor, ddof: int = 0, counts: Sequence[Tensor | None] = (None, None)
) -> float:
    """Return the Fréchet distance between features (N, d) and (M, d).

    Args:
        real: Features of real clips.
        fake: Features of generated clips.
        ddof: Covariances are divided by the number of clips less this.
        counts: How often each clip of either side counts; once by default.
    """
    with one_thread():
        mean1, cov1 = moments(real, ddof=ddof, counts=counts[0])
        mean2, cov2 = moments(fake, ddof=ddof, counts=counts[1])
        return frechet_distance(mean1=mean1, cov1=cov1, mean2=mean2, cov2=cov2).item()


def interval(
    real: Tensor,
    fake: Tensor,
    videos: tuple[Sequence[int], Sequence[int]],
    ddof: int = 0,
    draws: int = 200,
    seed: int = 0,
    paired: bool = False,
) -> tuple[float, float] | None:
    """Return a range that contains the mean over repetitions with as many other videos.

    About 95 % of such ranges do. There is none where a side has fewer than two videos.

    Args:
        real: Features of real clips, (N, d).
        fake: Features of generated clips, (M, d).
        videos: Number of the video that each clip is of, on either side: videos are drawn with
            all their clips, because clips of one video are alike.
        ddof: Covariances are divided by the number of clips less this.
        draws: How many times to draw.
        seed: Seed of the draws.
        paired: Whether a number stands for a pair, as a video and its reconstruction, of which
            both are drawn or neither; what pairs have in common then does not widen the range.
    """
    if min(len(set(side)) for side in videos) < 2:
        return None
    value = distance(real, fake, ddof=ddof)
    generator = torch.Generator().manual_seed(seed)
    if paired:
        both = [*videos[0], *videos[1]]
        sizes = [len(side) for side in videos]
        counts = [list(draw(both, generator).split(sizes)) for _ in range(draws)]
    else:
        counts = [[draw(side, generator) for side in videos] for _ in range(draws)]
    found = in_threads(lambda drawn: distance(real, fake, ddof=ddof, counts=drawn), counts)
    drawn = torch.tensor(found, dtype=torch.float64)
    low, high = (ends(drawn) + value - drawn.mean()).tolist()
    return max(low, 0.0), high


def mean_interval(values: Tensor, draws: int = 200, seed: int = 0) -> tuple[float, float] | None:
    """Return the same range for the mean of one value per video, (N,); none of a single one."""
    if len(values) < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(values), (draws, len(values)), generator=generator)
    low, high = ends(reduce(values.double()[chosen], "k n -> k", "mean")).tolist()
    return low, high


def ends(drawn: Tensor) -> Tensor:
    """Return the quantiles that 95 % of drawn numbers (K,) lie between, (2,)."""
    tail = (1 - CONFIDENCE) / 2
    return drawn.quantile(drawn.new_tensor([tail, 1 - tail]))


def draw(videos: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw as many videos as there are with replacement; return how often each clip counts."""
    numbers, place = torch.tensor(videos).unique(return_inverse=True)
    chosen = torch.randint(len(numbers), (len(numbers),), generator=generator)
    return chosen.bincount(minlength=len(numbers))[place]
