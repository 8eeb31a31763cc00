"""Write procedural videos into class folders: `ardiff videos OUT`."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from einops import rearrange
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ardiffusion.data.synthetic import SHAPES, SKIES, shapes, skies
from ardiffusion.data.writer import write_video
from ardiffusion.files import atomic_write
from ardiffusion.nn.sizes import check_range
from ardiffusion.tools.options import check_named

MOST_PIXELS = 2**28  # of all frames of a video together, as they are in memory
Draw = Callable[[int, int, int, torch.Generator], Tensor]
KINDS: dict[str, tuple[Draw, tuple[str, ...]]] = {
    "skies": (skies, SKIES),
    "shapes": (shapes, SHAPES),
}


def videos(
    out: str,
    kind: Literal["skies", "shapes"] = "skies",
    videos: int = 240,
    frames: int = 48,
    resolution: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """Write procedural H.264 videos as OUT/CLASS/KIND_INDEX.mp4, keeping files that are there.

    Videos of one frame are written as pictures, PNG, for `data.images`.

    Args:
        out: Folder to write to.
        kind: Skies (dawn, day, dusk, night) or bouncing shapes (circle, square, triangle).
        videos: Number of videos, dealt to the classes in turn.
        frames: Frames per video.
        resolution: Width and height in pixels.
        seed: Seed; a video depends on it and on its index only.
    """
    check_named("OUT", out)
    check_range("--{}", 1, videos=videos)
    check_range("--{}", 2, 2**13, resolution=resolution)
    check_range("--{}", 1, MOST_PIXELS // resolution**2, frames=frames)
    check_range("--{}", -(2**42), 2**42, seed=seed)
    draw, classes = KINDS[kind]

    def write(i: int) -> bool:
        label = i % len(classes)
        suffix = ".mp4" if frames > 1 else ".png"
        path = Path(out, classes[label], f"{kind}_{i:05d}{suffix}")
        if path.exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + i)
        video = draw(label, frames, resolution, generator)
        if frames > 1:
            write_video(path, frames=video, crf=14)
        else:
            with atomic_write(path) as partial:
                picture = rearrange(video, "1 c h w -> h w c").numpy()
                Image.fromarray(picture).save(partial, format="PNG")
        return True

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(write, range(videos))
        bar = Console(stderr=True)
        written = sum(track(done, f"Drawing {kind}", total=videos, console=bar))
    return {"out": out, "classes": list(classes), "videos": videos, "written": written}
