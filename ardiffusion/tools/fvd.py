"""Fréchet video distance of two folders: `ardiff fvd REAL GENERATED`."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ardiffusion.data.samples import read_sample_log
from ardiffusion.files import cache_folder, only_writer
from ardiffusion.metrics.bootstrap import Bootstrap
from ardiffusion.metrics.evaluation import evaluate
from ardiffusion.metrics.parallel import local_device, process_group, rank_and_world
from ardiffusion.metrics.protocol import Protocol, StyleGANV
from ardiffusion.metrics.score import Score
from ardiffusion.nn.sizes import check_range
from ardiffusion.tools.options import check_named, device_of, output_file
from ardiffusion.tools.pairs import Pairs
from ardiffusion.tools.video_folder import VideoFolder, compression_differs

UNKNOWN = "not stated"
MOST_PIXELS, MOST_DRAWS = 16_384, 100_000


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

    The Fréchet distance comes first, then the kernel distance, which has no bias with few clips.

    Features of clips are kept in the cache, so a run that was cut short goes on. After more videos
    were generated only their clips are computed, if their names sort after those of the old ones.
    Under torchrun, processes share the work.

    Args:
        real: Folder of real videos or of folders of frames.
        generated: Folder of generated ones.
        protocol: How to measure: StyleGANV (the default), OfficialARDiffusion or EveryClip; its
            own options follow, as `--protocol OfficialARDiffusion --protocol.frames 128`.
        resolution: Scale the short side of all frames to so many pixels and crop the centre;
            without it all frames must be of one size.
        split: Which split the real videos are, for the record.
        paired: Also compare videos of the same path but for its suffix frame by frame, by PSNR,
            SSIM and LPIPS, as for reconstructions; intervals then draw pairs.
        lpips: Whether LPIPS is among these; its network (528 MB) is downloaded at first use.
        cache: Folder for features; ~/.cache/ardiffusion/features by default.
        output: File for the Fréchet distance; other scores go beside it, as score.psnr.json.
        bootstrap: Draws for the 95 % interval over videos; 0 leaves it out.
        seed: Seed of these draws. Which real clips are taken depends on `--protocol.seed`.
        device: Where to compute; under torchrun, cuda is the GPU of each process.
    """
    check_named("REAL", real)
    check_named("GENERATED", generated)
    check_range("--{}", 1, MOST_PIXELS, resolution=resolution)
    check_range("--{}", 0, MOST_DRAWS, bootstrap=bootstrap)
    check_range("--{}", -(2**63), seed=seed)
    file, protocol = output_file(output, b'"metric"'), protocol or StyleGANV()
    first = os.environ.get("RANK", "0") == "0"
    draws = Bootstrap(draws=bootstrap, seed=seed) if bootstrap else None
    with only_writer(file.parent, file.name) if first else nullcontext(), process_group():
        place = device_of(local_device(device))
        folders = VideoFolder(real, resolution), VideoFolder(generated, resolution)
        pairs = Pairs(*folders, lpips=lpips) if paired else None
        together = draws and draws._replace(paired=pairs is not None and pairs.in_step())
        clips = protocol.real(folders[0].lengths), protocol.fake(folders[1].lengths)
        with progress("Describing clips", total=sum(map(len, clips))) as advance:
            scores = evaluate(
                protocol,
                *(folder.videos(protocol) for folder in folders),
                split=split or UNKNOWN,
                cache=Path(cache).expanduser() if cache else cache_folder() / "features",
                bootstrap=together,
                device=place,
                advance=advance,
            )
        distances = [score.metric for score in scores]
        if pairs is not None:
            with progress("Comparing pairs", total=len(pairs.matched)) as advance:
                values = pairs.compare(device=place, advance=advance)
            scores += pairs.scores(values, split=scores[0].split, bootstrap=draws)
        scores = annotate_scores(scores, *folders)
        if first:
            report_scores(scores, output=file)
    told = {score.metric: asdict(score) for score in scores}
    result = told.pop(protocol.metric)
    result |= {name.partition("_")[0]: told.pop(name) for name in distances if name in told}
    return result | ({"paired": [*told.values()]} if paired else {})


def annotate_scores(scores: Sequence[Score], real: VideoFolder, fake: VideoFolder) -> list[Score]:
    """Add what the folders tell about the generated videos, and what is doubtful about them."""
    log = read_sample_log(fake.root)
    doubts = folder_warnings(real, fake, models=len(log.models))
    if scores[0].split == UNKNOWN:
        doubts.insert(
            0, "Numbers of different splits do not compare: name the split with --split."
        )
    return [
        replace(
            score,
            weights=", ".join(log.models) or None,
            seeds=score.seeds | ({"generated": log.seeds} if log.seeds else {}),
            data=score.data | ({"sampling": log.settings} if log.settings else {}),
            warnings=list(dict.fromkeys([*score.warnings, *doubts])),
        )
        for score in scores
    ]


def folder_warnings(real: VideoFolder, fake: VideoFolder, models: int) -> list[str]:
    """Say what is doubtful about two folders, the second with videos of so many models."""
    warnings = []
    if os.path.realpath(real.root) == os.path.realpath(fake.root):
        warnings.append(f"{fake.root} is compared with itself.")
    if differs := compression_differs(real, fake):
        warnings.append(differs)
    if models > 1:
        warnings.append(f"{fake.root} mixes videos of {models} models.")
    for folder in (real, fake):
        if broken := [p for p, n in zip(folder.paths, folder.lengths, strict=True) if not n]:
            warnings.append(
                f"{len(broken)} videos of {folder.root} cannot be read and are left out, for "
                f"example {broken[0]}."
            )
    return warnings


def report_scores(scores: Sequence[Score], output: Path) -> None:
    """Save scores, print them, and warn of what is doubtful."""
    for score in scores:
        first = score is scores[0]
        score.save(output if first else output.with_suffix(f".{score.metric}.json"))
        print(score.line())
    for warning in dict.fromkeys(w for score in scores for w in score.warnings):
        print(f"warning: {warning}", file=sys.stderr)


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on the first process, which does its share of the total."""
    rank, world = rank_and_world()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=rank > 0) as bar:
        task = bar.add_task(title, total=-(-total // world))
        yield lambda count: bar.advance(task, count)
