"""What a study found: every arm against the first one, seed by seed, as a table and a picture."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import matplotlib

from ardiffusion.files import atomic_write, write_json

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

# 97.5 % quantiles of Student's t for 1, 2, 3, ... degrees of freedom
QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)
QUANTILES += (2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093)
MEASURES = {
    "frechet_short": "Fréchet distance of clips of 16 frames to held-out ones (random 3D network)",
    "frechet_long": "the same, long videos",
    "frechet_first": "the same, first frames",
    "kernel_short": "kernel distance of clips of 16 frames",
    "kernel_long": "the same, long videos",
    "drift": "distance to the nearest training latents, last quarter of long videos over first",
    "motion_short": "mean difference of neighbouring frames over that of real clips",
    "motion_long": "the same, long videos",
    "psnr": "held-out videos, reconstructed, dB",
    "fluctuation": "relative scatter of the loss around its running median",
    "spikes": "spikes of the loss per 1000 steps",
}
# scatter by factors, and are compared by factors
RATIOS = ("frechet_short", "frechet_long", "frechet_first")
DRAWN = ("frechet_short", "frechet_long", "drift", "motion_long")


class Difference(NamedTuple):
    """A paired comparison over seeds: mean difference or ratio, its interval, and wins."""

    value: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out that both are alike, 0 for none of them."""
        return self.low > 0 or self.high < 0


def paired(values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Return the mean difference of pairs and its 95 % interval by Student's t."""
    differences = [a - b for a, b in zip(values, baseline, strict=True)]
    middle, count = mean(differences), len(differences)
    if count < 2:
        return Difference(middle, -math.inf, math.inf)
    half = QUANTILES[min(count - 2, len(QUANTILES) - 1)] * stdev(differences) / math.sqrt(count)
    return Difference(middle, middle - half, middle + half)


def compared(name: str, values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Compare by the measure's own scale: distances by the logarithm of their ratio."""
    if name in RATIOS:
        return paired([math.log(x) for x in values], [math.log(x) for x in baseline])
    return paired(values, baseline)


def write_results(folder: Path, arms: Sequence[str], seeds: int) -> dict[str, Any]:
    """Write `results.json`, `table.md` and `study.png`; return the means of every arm."""
    found = {arm: read_arm(folder / arm, seeds) for arm in arms}
    whole = {arm: trials for arm, trials in found.items() if trials}
    if not whole:
        return {}
    write_json(folder / "results.json", {a: list(t.values()) for a, t in whole.items()})
    rebuilt = {
        f"({file.parent.name}, reconstructed)": {0: json.loads(file.read_text())}
        for file in sorted(folder.glob("stage_1/*/rebuilt.json"))
    }
    with atomic_write(folder / "table.md") as partial:
        partial.write_text(table(whole | rebuilt))
    with atomic_write(folder / "study.png") as partial:
        draw(whole, partial)
    return {arm: len(trials) for arm, trials in whole.items()}


def read_arm(folder: Path, seeds: int) -> dict[int, dict[str, Any]]:
    """Read the trials of an arm that are done, by seed."""
    files = {seed: folder / f"seed_{seed}" / "measures.json" for seed in range(seeds)}
    return {seed: json.loads(file.read_text()) for seed, file in files.items() if file.exists()}


def pairs(
    name: str, trials: Mapping[int, Mapping[str, float]], first: Mapping[int, Mapping[str, float]]
) -> tuple[list[float], list[float]]:
    """Return a measure of the seeds that an arm shares with the first one."""
    both = [(trials[s], first[s]) for s in trials if s in first]
    shared = [(one[name], other[name]) for one, other in both if name in one and name in other]
    return [one for one, _ in shared], [other for _, other in shared]


def table(found: Mapping[str, Mapping[int, Mapping[str, float]]]) -> str:
    """Lay out means, and paired differences to the first arm with their intervals."""
    names, (first, *_) = list(MEASURES), found.values()
    lines = [f"| arm | seeds | {' | '.join(names)} |", "| --- |" + " --- |" * (len(names) + 1)]
    for arm, trials in found.items():
        cells = [cell(name, trials, first) for name in names]
        lines.append(f"| {arm} | {len(trials)} | {' | '.join(cells)} |")
    notes = [f"- `{name}`: {meaning}" for name, meaning in MEASURES.items()]
    explained = (
        f"Means over seeds; in brackets the paired comparison with {next(iter(found))} and its "
        f"95 % interval over seeds: the ratio of {' and '.join(RATIOS)}, the difference of all "
        "others. Bold: the interval leaves out that both are alike. Reconstructed: real videos "
        "through stage 1, below which a generator gets by chance alone."
    )
    return "\n".join([*lines, "", explained, "", *notes, ""])


def cell(name: str, trials: Mapping[int, Any], first: Mapping[int, Any]) -> str:
    """Write one number, with its comparison unless it is the first arm's own."""
    values, baseline = pairs(name, trials, first)
    if not (known := [trial[name] for trial in trials.values() if name in trial]):
        return ""
    text = f"{mean(known):.3g}"
    if trials is first or len(trials) < 2 or len(values) < 2 or values == baseline:
        return text
    found = compared(name, values, baseline)
    numbers = [math.exp(x) if name in RATIOS else x for x in found]
    text += " ({:.2f}: {:.2f} to {:.2f})".format(*numbers)
    return f"**{text}**" if found.decided else text


def draw(found: Mapping[str, Mapping[int, Mapping[str, float]]], path: Path) -> None:
    """Draw every trial as a dot, and means, per arm and measure."""
    arms = list(found)[::-1]
    figure, axes = plt.subplots(1, len(DRAWN), sharey=True, figsize=(13, 1 + 0.3 * len(arms)))
    for axis, name in zip(axes, DRAWN, strict=True):
        for row, arm in enumerate(arms):
            values = [trial[name] for trial in found[arm].values()]
            axis.plot(values, [row] * len(values), "o", color="#8aa4c8", markersize=4)
            axis.plot(mean(values), row, "|", color="#1d3557", markersize=14, markeredgewidth=2)
        axis.axvline(mean(t[name] for t in found[arms[-1]].values()), color="#cccccc", zorder=0)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=8)
        if name in RATIOS:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_yticks(range(len(arms)), arms)
    figure.tight_layout()
    figure.savefig(path, format="png", dpi=110)
    plt.close(figure)
