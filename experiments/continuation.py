"""Whether videos go on as what they were given: `python -m experiments.continuation`.

ardiff-dit predict --ckpt_path last.ckpt --prefix given --frames 128 --output made
ardiff-dit predict --ckpt_path last.ckpt --frames 128 --output free
python -m experiments.continuation made given free --real held_out
"""

from pathlib import Path
from statistics import mean
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, cosine_similarity

from ardiffusion.data.clips import resize_crop
from ardiffusion.data.layouts import find_clips
from ardiffusion.data.samples import read_samples
from ardiffusion.data.video import read_frames
from ardiffusion.files import atomic_write
from ardiffusion.metrics.image import psnr
from ardiffusion.nn.sizes import check_range
from experiments.command import run_script
from experiments.contact import contact_sheet

STEP = 2  # frames apart, between which motion is seen
FLOWING = 8  # frames on either side of the seam, whose optical flow is compared
BLOCK = 16  # pixels: side of the blocks that flow as one
SIDE = 8  # pixels of the thumbnails that are compared


def continuation(
    made: str, given: str, free: str, real: str | None = None, every: int = 8
) -> dict[str, Any]:
    """Measure samples that began with a prefix, and draw them into `strips.png` beside them.

    A strip shows the first frame as it was given, then frames of the sample from its first one on.

    Args:
        made: Folder of samples with a prefix.
        given: Folder that their prefixes were taken of.
        free: Folder of as many samples without one, whose motion shows what chance gives.
        real: Class folders of videos, to name the class that the first and last frames look like.
        every: Step between two frames that are drawn.
    """
    check_range("--{}", 1, every=every)
    lines = [line for line in read_samples(Path(made)).values() if line.get("prefix")]
    others = sorted(Path(free).glob("*.mp4"))
    if not lines or len(others) < len(lines):
        raise ValueError(f"{made} has {len(lines)} samples with a prefix, {free} {len(others)}.")
    bank = thumbnails_by_class(Path(real)) if real else {}
    rows, videos = [], []
    for line, other in zip(lines, others, strict=False):
        prefix, video = line["prefix"], read_frames(Path(made, line["file"]))
        taken = {"start": prefix["start"], "frames": prefix["frames"]}
        source = resize_crop(read_frames(Path(given, prefix["file"]), **taken), video.shape[-1])
        if len(video) < len(source) + STEP:
            raise ValueError(
                f"{line['file']} of {made} has {len(video)} frames, {len(source)} of them given: "
                f"generate at least {STEP} more."
            )
        rows.append(compare(video, source, read_frames(other, frames=FLOWING)))
        if bank:
            ends = {"first": video[0], "last": video[-1]}
            rows[-1] |= {name: nearest_class(frame, bank) for name, frame in ends.items()}
        videos.append(torch.cat([source[:1], video[::every]]))
    with atomic_write(Path(made) / "strips.png") as partial:
        contact_sheet(videos).save(partial, format="PNG")
    numbers = [name for name, value in rows[0].items() if isinstance(value, float)]
    found: dict[str, Any] = {name: mean(row[name] for row in rows) for name in numbers}
    kept = {"class_kept": mean(row["first"] == row["last"] for row in rows)} if bank else {}
    return {**found, **kept, "samples": rows}


def compare(video: Tensor, source: Tensor, free: Tensor) -> dict[str, Any]:
    """Compare a video with the frames it was given, and its motion with theirs.

    Motion is the difference of frames; `seam` is the cosine between that of the last frames given
    and that of the first new ones, `seam_free` the same with the first frames of a free sample;
    `flow` and `flow_free` are the cosines between their optical flow, which sees what moves and
    not what fades.
    """
    count = len(source)
    found: dict[str, Any] = {"psnr_first": float(psnr(source[0], video[0]))}
    if count > STEP:
        before = source[-1].float() - source[-1 - STEP].float()
        after = video[count - 1 + STEP].float() - video[count - 1].float()
        chance = free[STEP].float() - free[0].float()
        for name, moved in {"seam": after, "seam_free": chance}.items():
            found[name] = cosine(before, moved)
        flows = [flow(x[:FLOWING]) for x in (source[-FLOWING:], video[count:], free)]
        for name, moved in zip(("flow", "flow_free"), flows[1:], strict=True):
            found[name] = cosine(flows[0], moved)
    return found


def cosine(a: Tensor, b: Tensor) -> float:
    return float(cosine_similarity(a.flatten(), b.flatten(), dim=0))


def flow(video: Tensor) -> Tensor:
    """Return the optical flow of a clip (F, 3, H, W) by blocks, (2, H / BLOCK, W / BLOCK).

    One for all its frames, by least squares (Lucas and Kanade, 1981), pulled to 0 where nothing
    is to be seen.
    """
    grey = avg_pool2d(video.float().mean(dim=1), 5, stride=1, padding=2)  # (F, H, W)
    d_t = grey.diff(dim=0)
    d_y, d_x = ((d[1:] + d[:-1]) / 2 for d in torch.gradient(grey, dim=(1, 2)))
    products = torch.stack([d_x * d_x, d_y * d_y, d_x * d_y, d_x * d_t, d_y * d_t])
    xx, yy, xy, xt, yt = avg_pool2d(products.sum(dim=1), BLOCK)
    xx, yy = xx + 1, yy + 1
    return torch.stack([xy * yt - yy * xt, xy * xt - xx * yt]) / (xx * yy - xy * xy)


def thumbnails(video: Tensor) -> Tensor:
    return rearrange(adaptive_avg_pool2d(video.float(), SIDE), "f c h w -> f (c h w)")


def thumbnails_by_class(root: Path) -> dict[str, Tensor]:
    """Read thumbnails (N, d) of every class."""
    found: dict[str, list[Tensor]] = {}
    for path, label in find_clips(root):
        found.setdefault(str(label), []).append(thumbnails(read_frames(root / path)))
    return {label: torch.cat(parts) for label, parts in found.items()}


def nearest_class(frame: Tensor, bank: dict[str, Tensor]) -> str:
    """Name the class that has the frame most alike."""
    own = thumbnails(frame[None])
    return min(bank, key=lambda label: float(torch.cdist(own, bank[label]).min()))


def main(args: list[str] | None = None) -> None:
    """Run the command line."""
    run_script(continuation, args)


if __name__ == "__main__":
    main()
