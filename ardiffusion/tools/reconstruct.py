"""Videos to tokens and back: `ardiff reconstruct ARVAE VIDEOS OUT`."""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ardiffusion.data.clips import resize_crop
from ardiffusion.data.layouts import by_stem, find_clips
from ardiffusion.data.stamp import stamp
from ardiffusion.data.video import read_frames
from ardiffusion.data.writer import write_video
from ardiffusion.files import append_json_lines, only_writer, read_json_lines
from ardiffusion.hub import load_arvae
from ardiffusion.nn.autoencoder import Autoencoder, to_bytes, to_unit, together
from ardiffusion.nn.fingerprint import fingerprint
from ardiffusion.nn.sizes import check_range
from ardiffusion.tools.options import check_named, device_of
from ardiffusion.training.messages import user_message

NOTES = "reconstructions.jsonl"


def reconstruct(
    arvae: str,
    videos: str,
    out: str,
    frames: int | None = None,
    limit: int | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Encode and decode videos; write the reconstructions as OUT/<their path>.mp4.

    Files that are there are kept, so a run that was cut short goes on where it was; those of
    videos that have changed since, and broken ones, are made anew. Videos that cannot be read are
    left out and listed, and so are reconstructions of videos that are there no more.

    Args:
        arvae: The AR-VAE: a checkpoint, file, folder or hf://user/repo.
        videos: Folder of videos or of folders of frames.
        out: Folder to write to.
        frames: Frames of each video, from its start; all if not given.
        limit: How many videos at most, the first ones by name.
        device: Where to compute.
    """
    check_named("VIDEOS", videos)
    check_named("OUT", out)
    check_range("--{}", 1, frames=frames, limit=limit)
    network = load_arvae(arvae).to(device_of(device)).eval()
    made_by = {"arvae": fingerprint(network), "frames": frames}
    folder, place = Path(out).expanduser(), Path(videos).expanduser()
    paths = by_stem(place, [entry.path for entry in find_clips(place, option="VIDEOS")])
    sources = {f"{stem}.mp4": place / path for stem, path in paths.items()}
    todo, broken, written = dict(islice(sources.items(), limit)), [], 0
    with only_writer(folder):
        stamps = read_stamps(folder, made_by)
        for name, source in track(todo.items(), "Reconstructing", console=Console(stderr=True)):
            path = folder / name
            try:
                content = stamp(source)
                if path.exists() and stamps.get(name) == [content, stamp(path)]:
                    continue
                real = resize_crop(read_frames(source, frames=frames), network.resolution)
            except (ValueError, OSError) as error:
                broken.append(user_message(error))
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, frames=torch.stack(list(there_and_back(network, real))), crf=14)
            line = {"file": name, **made_by, "stamps": [content, stamp(path)]}
            append_json_lines(folder / NOTES, [line])
            written += 1
    if len(broken) == len(todo):
        raise ValueError(f"No video of {videos} can be read, for example: {broken[0]}")
    gone = [name for name in sorted(stamps.keys() - sources.keys()) if (folder / name).exists()]
    if gone:
        print(
            f"warning: {len(gone)} reconstructions in {out} are of videos that {videos} does not "
            f"hold any more, for example {gone[0]}: delete them or choose another folder.",
            file=sys.stderr,
        )
    counts = {"videos": len(todo), "written": written, "broken": broken}
    return {"out": out, **counts} | ({"gone": gone} if gone else {})


def read_stamps(folder: Path, made_by: dict[str, Any]) -> dict[str, Any]:
    """Read by what each video in a folder and its reconstruction are known; refuse other ones."""
    stamps = {}
    for line in read_json_lines(folder / NOTES):
        for name, value in made_by.items():
            if line.get(name) != value:
                raise ValueError(
                    f"{folder} holds reconstructions with {name} {line.get(name)}, not {value}; "
                    "choose another folder."
                )
        stamps[str(line.get("file"))] = line.get("stamps")
    return stamps


@torch.no_grad()
def there_and_back(network: Autoencoder, video: Tensor) -> Iterator[Tensor]:
    """Encode a uint8 video (F, 3, H, W) and yield its decoded frames, uint8 (3, H, W)."""
    device = next(network.parameters()).device

    def latents() -> Iterator[Tensor]:
        for frame in video:
            yield network.encode(to_unit(frame.to(device))[None, None])[:, 0]  # (1, L, C)

    for frame in network.stream_decode(latents(), together=together(device)):
        yield to_bytes(frame)[0].cpu()
