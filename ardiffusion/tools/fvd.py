"""Fréchet video distance of two folders: `ardiff fvd REAL GENERATED`."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import distributed

from ardiffusion.data.samples import read_sample_log
from ardiffusion.metrics.clip_features import processes
from ardiffusion.metrics.evaluation import evaluate
from ardiffusion.metrics.protocol import Protocol, StyleGANV
from ardiffusion.metrics.score import Score
from ardiffusion.tools.device import device_of
from ardiffusion.tools.pairs import Pairs
from ardiffusion.tools.video_folder import VideoFolder, compression_differs

UNKNOWN = "not stated"


def fvd(
    real: str,
    generated: str,
    protocol: Protocol | None = None,
    resolution: int | None = None,
    split: str | None = None,
    paired: bool = False,
    lpips: bool = True,
    cache: str | None = None,
    output: str = "score.json",
    bootstrap: int = 200,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure how far generated videos are from real ones, and record all that it depends on.

    Features of clips are kept in the cache, so a run that was cut short goes on. After more videos
    were generated only their clips are computed, if their names sort after those of the old ones.
    Under `torchrun -m ardiffusion fvd`, processes share the work.

    Args:
        real: Folder of real videos or of folders of frames.
        generated: Folder of generated ones.
        protocol: How to measure: StyleGANV (the default), ARDiffusion or EveryClip; its own
            options follow, as `--protocol ARDiffusion --protocol.frames 128`.
        resolution: Scale the short side of all frames to so many pixels and crop the centre;
            without it all frames must be of one size.
        split: Which split the real videos are, for the record.
        paired: Also compare videos of the same path but for its suffix frame by frame, by PSNR,
            SSIM and LPIPS, as for reconstructions; intervals then draw pairs.
        lpips: Whether LPIPS is among these; its network (528 MB) is downloaded at first use.
        cache: Folder for features; ~/.cache/ardiffusion/features by default.
        output: File for the score; scores of pairs go beside it, as score.psnr.json.
        bootstrap: Draws for the 95 % interval over videos; 0 leaves it out.
        seed: Seed of these draws. Which real clips are taken depends on `--protocol.seed`.
        device: Where to compute; under torchrun, cuda is the GPU of each process.
    """
    for name, value, least in (("resolution", resolution, 1), ("bootstrap", bootstrap, 0)):
        if value is not None and value < least:
            raise ValueError(f"--{name} must be at least {least}, got {value}.")
    draws = Draws(times=bootstrap, seed=seed)
    with joined():
        place = device_of(own(device))
        folders = VideoFolder(real, resolution), VideoFolder(generated, resolution)
        pairs = Pairs(*folders, lpips=lpips) if paired else None
        options = {"split": split or UNKNOWN, "draws": draws, "device": place}
        together = pairs is not None and pairs.in_step()
        protocol = protocol or StyleGANV()
        scores = [frechet(protocol, *folders, cache=cache, paired=together, **options)]
        if pairs is not None:
            scores += likenesses(pairs, **options)
        scores = [annotate(score, *folders) for score in scores]
        if processes()[0] == 0:
            tell(scores, output=Path(output))
    first, *others = map(asdict, scores)
    return first | ({"paired": others} if paired else {})


def own(device: str) -> str:
    """Give each process of torchrun its GPU, in turn where there are more processes than GPUs."""
    rank = os.environ.get("LOCAL_RANK")
    if device != "cuda" or rank is None:
        return device
    return f"cuda:{int(rank) % max(torch.cuda.device_count(), 1)}"


class Draws(NamedTuple):
    """How often an interval's videos are drawn, and the seed."""

    times: int
    seed: int


def frechet(
    protocol: Protocol,
    real: VideoFolder,
    fake: VideoFolder,
    split: str,
    cache: str | None,
    paired: bool,
    draws: Draws,
    device: torch.device,
) -> Score:
    """Measure the Fréchet distance under a progress bar."""
    clips = len(protocol.real(real.lengths)) + len(protocol.fake(fake.lengths))
    with progress("Describing clips", total=clips) as advance:
        return evaluate(
            protocol,
            real=real.videos(protocol),
            fake=fake.videos(protocol),
            split=split,
            cache=cache or default_cache(),
            bootstrap=draws.times,
            seed=draws.seed,
            paired=paired,
            device=device,
            advance=advance,
        )


def likenesses(pairs: Pairs, split: str, draws: Draws, device: torch.device) -> list[Score]:
    """Compare pairs of videos under a progress bar."""
    with progress("Comparing pairs", total=len(pairs.matched)) as advance:
        values = pairs.compare(device=device, advance=advance)
    return [
        pairs.score(name, values=column, split=split, draws=draws.times, seed=draws.seed)
        for name, column in zip(pairs.likenesses, values.unbind(dim=1), strict=True)
    ]


def annotate(score: Score, real: VideoFolder, fake: VideoFolder) -> Score:
    """Add what the folders tell about the generated videos, and what is doubtful about them."""
    log = read_sample_log(fake.root)
    doubts = list(score.warnings)
    if score.split == UNKNOWN:
        doubts.append("Numbers of different splits do not compare: name the split with --split.")
    if os.path.realpath(real.root) == os.path.realpath(fake.root):
        doubts.append(f"{fake.root} is compared with itself.")
    if differs := compression_differs(real, fake):
        doubts.append(differs)
    if len(log.models) > 1:
        doubts.append(f"{fake.root} mixes videos of {len(log.models)} models.")
    for folder in (real, fake):
        if broken := folder.broken():
            doubts.append(
                f"{len(broken)} videos of {folder.root} cannot be read and are left out, for "
                f"example {broken[0]}."
            )
    return replace(
        score,
        weights=", ".join(log.models) or None,
        seeds=score.seeds | ({"generated": log.seeds} if log.seeds else {}),
        data=score.data | ({"sampling": log.settings} if log.settings else {}),
        warnings=list(dict.fromkeys(doubts)),
    )


def tell(scores: Sequence[Score], output: Path) -> None:
    """Save scores, print them, and warn of what is doubtful."""
    for score in scores:
        first = score is scores[0]
        score.save(output if first else output.with_suffix(f".{score.metric}.json"))
        print(score.line())
    for warning in dict.fromkeys(w for score in scores for w in score.warnings):
        print(f"warning: {warning}", file=sys.stderr)


def default_cache() -> Path:
    """Return the user's folder for features."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ardiffusion" / "features"


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on the first process, which does its share of the total."""
    rank, world = processes()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=rank > 0) as bar:
        task = bar.add_task(title, total=-(-total // world))
        yield lambda count: bar.advance(task, count)


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, if it did."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()
