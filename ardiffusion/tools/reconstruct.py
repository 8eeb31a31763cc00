"""Videos to tokens and back: `ardiff reconstruct ARVAE VIDEOS OUT`."""

import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ardiffusion.data.clips import resize_crop
from ardiffusion.data.layouts import find_clips, without_suffix
from ardiffusion.data.stamp import stamp
from ardiffusion.data.video import read_frames, write_video
from ardiffusion.files import only_writer, write_json
from ardiffusion.hub import load_arvae
from ardiffusion.nn.autoencoder import Autoencoder, to_bytes, to_unit
from ardiffusion.nn.fingerprint import fingerprint
from ardiffusion.tools.options import check_option, device_of

NOTE = "reconstructions.json"


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
    check_option("frames", frames, low=1)
    check_option("limit", limit, low=1)
    network = load_arvae(arvae).to(device_of(device)).eval()
    sources = sources_of(Path(videos).expanduser())
    written, broken = 0, []
    with only_writer(Path(out).expanduser()):
        ledger = Ledger(Path(out).expanduser(), arvae=fingerprint(network), frames=frames)
        todo = dict(islice(sources.items(), limit))
        for name, source in track(todo.items(), "Reconstructing", console=Console(stderr=True)):
            try:
                content = stamp(source)
                if ledger.has(name, content):
                    continue
                real = resize_crop(read_frames(source, frames=frames), network.resolution)
            except (ValueError, OSError) as error:
                broken.append(str(error))
                continue
            made = torch.stack(list(there_and_back(network, real)))
            ledger.write(name, video=made, source=content)
            written += 1
        ledger.save()
    if len(broken) == len(todo):
        raise ValueError(f"No video of {videos} can be read, for example: {broken[0]}")
    if gone := sorted(ledger.stamps.keys() - sources.keys()):
        print(
            f"warning: {len(gone)} reconstructions in {out} are of videos that {videos} does not "
            f"hold any more, for example {gone[0]}: delete them or choose another folder.",
            file=sys.stderr,
        )
    counts = {"videos": len(todo), "written": written, "broken": broken}
    return {"out": out, **counts} | ({"gone": gone} if gone else {})


class Ledger:
    """The reconstructions in a folder, and what each is known to be made of.

    Args:
        folder: The folder.
        arvae: Fingerprint of the network that makes them.
        frames: How many frames of each video are reconstructed, if not all.

    Attributes:
        stamps: By name of the reconstruction, what its video's content and its own are known by.
    """

    def __init__(self, folder: Path, arvae: str, frames: int | None) -> None:
        self.folder, self.identity = folder, {"arvae": arvae, "frames": frames}
        found = self.read()
        for name, value in self.identity.items():
            if found.get(name, value) != value:
                raise ValueError(
                    f"{folder} holds reconstructions with {name} {found[name]}, not {value}; "
                    "choose another folder."
                )
        # Earlier versions noted the folder of the videos here, and not their content.
        self.stamps: dict[str, list[str]] = found.get("made", {})
        self.save()

    def read(self) -> dict[str, Any]:
        """Read what the folder says of itself."""
        note = self.folder / NOTE
        if not note.exists():
            return {}
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
            assert isinstance(found, dict) and isinstance(found.get("made", {}), dict)
            return found
        except (ValueError, AssertionError):
            raise ValueError(
                f"{note} is broken, so that it is not known which network {self.folder} is of: "
                "choose another folder."
            ) from None

    def has(self, name: str, source: str) -> bool:
        """Say whether the reconstruction is there, whole, and of a video of this content."""
        path = self.folder / name
        return path.exists() and self.stamps.get(name) == [source, stamp(path)]

    def write(self, name: str, video: Tensor, source: str) -> None:
        """Write a reconstruction; once a second, and in the end, this is noted."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames=video, crf=14)
        self.stamps[name] = [source, stamp(path)]
        if time.monotonic() - self.saved > 1:
            self.save()

    def save(self) -> None:
        """Note what is there."""
        write_json(self.folder / NOTE, self.identity | {"made": self.stamps})
        self.saved = time.monotonic()


def sources_of(videos: Path) -> dict[str, Path]:
    """Find the videos, by the names of their reconstructions."""
    try:
        entries = find_clips(videos)
    except OSError as error:
        raise FileNotFoundError(f"There is no folder {videos}: check its path.") from error
    sources = {f"{without_suffix(e.path)}.mp4": videos / e.path for e in entries}
    if len(sources) < len(entries):
        raise ValueError(
            f"Some videos of {videos} differ in nothing but the end of their name, so that their "
            "reconstructions would have one name: rename them."
        )
    return sources


@torch.no_grad()
def there_and_back(network: Autoencoder, video: Tensor) -> Iterator[Tensor]:
    """Encode a uint8 video (F, 3, H, W) and yield its decoded frames, uint8 (3, H, W)."""
    device = next(network.parameters()).device

    def latents() -> Iterator[Tensor]:
        for frame in video:
            yield network.encode(to_unit(frame.to(device))[None, None])[:, 0]  # (1, L, C)

    for frame in network.stream_decode(latents()):
        yield to_bytes(frame)[0].cpu()
