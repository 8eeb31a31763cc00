"""Videos to tokens and back: `ardiff reconstruct ARVAE VIDEOS OUT`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ardiffusion.data.clips import resize_crop
from ardiffusion.data.layouts import find_clips, without_suffix
from ardiffusion.data.video import read_frames, write_video
from ardiffusion.files import write_json
from ardiffusion.hub import load_arvae
from ardiffusion.nn.autoencoder import Autoencoder, to_bytes, to_unit
from ardiffusion.nn.fingerprint import fingerprint
from ardiffusion.tools.device import device_of


def reconstruct(
    arvae: str,
    videos: str,
    out: str,
    frames: int | None = None,
    limit: int | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Encode and decode videos; write the reconstructions as OUT/<their path>.mp4.

    Files that are there are kept, so a run that was cut short goes on where it was. Videos that
    cannot be read are left out and listed.

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
    check_source(Path(out), {"arvae": fingerprint(network), "frames": frames, "videos": videos})
    places = places_of(videos, out=Path(out), limit=limit)
    written, broken = 0, []
    for source, path in track(places.items(), "Reconstructing", console=Console(stderr=True)):
        if path.exists():
            continue
        try:
            real = resize_crop(read_frames(source, frames=frames), network.resolution)
        except (ValueError, OSError) as error:
            broken.append(str(error))
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames=torch.stack(list(there_and_back(network, real))), crf=14)
        written += 1
    if len(broken) == len(places):
        raise ValueError(f"No video of {videos} can be read, for example: {broken[0]}")
    return {"out": out, "videos": len(places), "written": written, "broken": broken}


def check_source(out: Path, source: dict[str, str | int | None]) -> None:
    """Refuse a folder that holds reconstructions of other videos, or by another network."""
    note = out / "reconstructions.json"
    found = json.loads(note.read_text()) if note.exists() else source
    for name, value in source.items():
        if found.get(name) != value:
            raise ValueError(
                f"{out} holds reconstructions with {name} {found.get(name)}, not {value}; choose "
                "another folder."
            )
    write_json(note, source)


def places_of(videos: str, out: Path, limit: int | None) -> dict[Path, Path]:
    """Return where the reconstruction of each video goes."""
    try:
        entries = find_clips(videos)[:limit]
    except OSError as error:
        raise FileNotFoundError(f"There is no folder {videos}: check its path.") from error
    places = {Path(videos, e.path): out / f"{without_suffix(e.path)}.mp4" for e in entries}
    if len(set(places.values())) < len(places):
        raise ValueError(
            f"Some videos of {videos} differ in nothing but the end of their name, so that their "
            "reconstructions would have one name: rename them."
        )
    return places


@torch.no_grad()
def there_and_back(network: Autoencoder, video: Tensor) -> Iterator[Tensor]:
    """Encode a uint8 video (F, 3, H, W) and yield its decoded frames, uint8 (3, H, W)."""
    device = next(network.parameters()).device

    def latents() -> Iterator[Tensor]:
        for frame in video:
            yield network.encode(to_unit(frame.to(device))[None, None])[:, 0]  # (1, L, C)

    for frame in network.stream_decode(latents()):
        yield to_bytes(frame)[0].cpu()
