"""Videos to tokens and back: `python -m ardiffusion.tools.reconstruct ARVAE VIDEOS OUT`."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from jsonargparse import auto_cli
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ardiffusion.data.clips import resize_crop
from ardiffusion.data.layouts import VIDEOS, find_clips
from ardiffusion.data.video import read_frames, write_video
from ardiffusion.generate import to_bytes, to_unit
from ardiffusion.hub import load_arvae
from ardiffusion.nn.autoencoder import Autoencoder
from ardiffusion.tools.benchmarks.measure import device_of
from ardiffusion.tools.command import told_in_one_sentence


def reconstruct(
    arvae: str,
    videos: str,
    out: str,
    frames: int | None = None,
    limit: int | None = None,
    device: str = "cpu",
) -> dict[str, int | str]:
    """Encode and decode videos; write the reconstructions as OUT/<their path>.mp4.

    Files that are there are kept, so a run that was cut short goes on where it was.

    Args:
        arvae: The AR-VAE: a checkpoint, file, folder or hf://user/repo.
        videos: Folder of videos or of folders of frames.
        out: Folder to write to.
        frames: Frames of each video, from its start; all if not given.
        limit: How many videos at most, the first ones by name.
        device: Where to compute.
    """
    for name, value in (("frames", frames), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}.")
    network = load_arvae(arvae).to(device_of(device)).eval()
    entries = find_clips(videos)[:limit]
    written = 0
    for entry in track(entries, "Reconstructing", console=Console(stderr=True)):
        path = Path(out, f"{without_suffix(entry.path)}.mp4")
        if not path.exists():
            real = read_frames(Path(videos, entry.path), frames=frames)
            real = resize_crop(real, network.resolution)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, frames=torch.stack(list(there_and_back(network, real))), crf=14)
            written += 1
    return {"out": out, "videos": len(entries), "written": written}


def without_suffix(path: str) -> str:
    """Drop the suffix of a video file; folders of frames may have a dot in their name."""
    name = Path(path)
    return str(name.with_suffix("")) if name.suffix.lower() in VIDEOS else path


@torch.no_grad()
def there_and_back(network: Autoencoder, video: Tensor) -> Iterator[Tensor]:
    """Encode a uint8 video (F, 3, H, W) and yield its decoded frames, uint8 (3, H, W)."""
    device = next(network.parameters()).device

    def latents() -> Iterator[Tensor]:
        for frame in video:
            yield network.encode(to_unit(frame.to(device))[None, None])[:, 0]  # (1, L, C)

    for frame in network.stream_decode(latents()):
        yield to_bytes(frame)[0].cpu()


def main(args: list[str] | None = None) -> None:
    """Run the command line; the last line of its output is one JSON object."""
    with told_in_one_sentence():
        result = auto_cli(reconstruct, args=args, as_positional=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
