"""A folder's videos side by side in one animated WebP: `python -m experiments.moving_picture`."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ardiffusion.data.layouts import find_clips
from ardiffusion.data.video import read_frames
from ardiffusion.files import atomic_write
from experiments.command import run_script
from experiments.contact import contact_sheet


def moving_picture(
    videos: str,
    out: str,
    limit: int = 4,
    fps: float = 16,
    scale: int = 2,
    quality: int = 80,
) -> dict[str, Any]:
    """Show videos side by side, for as long as the shortest of them.

    Args:
        videos: Folder of videos, all of one height.
        out: The WebP file to write.
        limit: How many videos at most, the first ones by name.
        fps: Frames per second.
        scale: How many times as large as it is a frame is shown.
        quality: Quality of the picture, from 0 to 100.
    """
    root = Path(videos)
    read = [read_frames(root / entry.path) for entry in find_clips(root)[:limit]]
    pictures = []
    for frames in zip(*read, strict=False):
        picture = contact_sheet([torch.stack(frames)])
        size = (scale * picture.width, scale * picture.height)
        pictures.append(picture.resize(size, Image.Resampling.BICUBIC))
    with atomic_write(out) as partial:
        pictures[0].save(
            partial,
            format="webp",
            save_all=True,
            append_images=pictures[1:],
            duration=round(1000 / fps),
            loop=0,
            quality=quality,
            method=6,
        )
    return {"out": out, "bytes": Path(out).stat().st_size, "frames": len(pictures)}


def main(args: list[str] | None = None) -> None:
    """Run the command line; the last line of its output is one JSON object."""
    run_script(moving_picture, args, as_positional=True)


if __name__ == "__main__":
    main()
