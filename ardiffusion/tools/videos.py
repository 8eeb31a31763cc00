"""Write procedural videos into class folders: `ardiff videos OUT`."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ardiffusion.data.synthetic import SHAPES, SKIES, shapes, skies
from ardiffusion.data.video import write_video

Draw = Callable[[int, int, int, torch.Generator], Tensor]
KINDS: dict[str, tuple[Draw, tuple[str, ...]]] = {
    "skies": (skies, SKIES),
    "shapes": (shapes, SHAPES),
}


def _write(path: Path, draw: Draw, label: int, frames: int, resolution: int, seed: int) -> int:
    """Write one video and return how many were written; one that is there already is kept."""
    if path.exists():
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    video = draw(label, frames, resolution, torch.Generator().manual_seed(seed))
    write_video(path, frames=video, crf=14)
    return 1


def videos(
    out: str,
    kind: Literal["skies", "shapes"] = "skies",
    videos: int = 240,
    frames: int = 48,
    resolution: int = 64,
    seed: int = 0,
) -> dict[str, int | str | list[str]]:
    """Write procedural H.264 videos as OUT/CLASS/KIND_INDEX.mp4, keeping files that are there.

    Args:
        out: Folder to write to.
        kind: Skies (dawn, day, dusk, night) or bouncing shapes (circle, square, triangle).
        videos: Number of videos, dealt to the classes in turn.
        frames: Frames per video.
        resolution: Width and height in pixels.
        seed: Seed; a video depends on it and on its index only.
    """
    if min(videos, frames, resolution) < 1:
        raise ValueError(
            f"videos={videos}, frames={frames} and resolution={resolution} must be at least 1."
        )
    draw, classes = KINDS[kind]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(
                _write,
                path=Path(out) / classes[i % len(classes)] / f"{kind}_{i:05d}.mp4",
                draw=draw,
                label=i % len(classes),
                frames=frames,
                resolution=resolution,
                seed=seed * 1_000_003 + i,
            )
            for i in range(videos)
        ]
        done = track(
            as_completed(jobs),
            total=videos,
            description=f"Drawing {kind}",
            console=Console(stderr=True),
        )
        written = sum(job.result() for job in done)
    return {"out": out, "classes": list(classes), "videos": videos, "written": written}
