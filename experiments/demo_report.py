"""What `make demo` measures: reconstruction, drift over long videos, motion, Fréchet distances."""

from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange, repeat
from torch import Tensor

from ardiffusion.data.video import read_frames
from ardiffusion.files import atomic_write
from ardiffusion.generator import Generator
from ardiffusion.metrics.features import Random3D
from ardiffusion.metrics.fvd import FrechetVideoDistance
from ardiffusion.metrics.image import psnr
from ardiffusion.nn.autoencoder import Autoencoder, to_bytes, to_unit
from ardiffusion.training.data import VideoDataModule
from experiments.contact import contact_sheet

CLIP = 16
SHOWN = 4  # generated videos on the contact sheet
MEANING = {
    "psnr": "held-out videos, reconstructed, dB",
    "drift": "distance_last / distance_first",
    "distance_first": "frames to the nearest of training, as latents, first quarter of the videos",
    "distance_last": "the same, last quarter",
    "distance_held_out": "the same, real held-out videos",
    "motion": "mean difference of neighbouring generated frames, of 255",
    "motion_real": "the same, held-out videos",
    "frechet_generated": "generated clips to training clips (random 3D network)",
    "frechet_held_out": "held-out clips to training clips",
    "frechet_static": "held-out clips with their first frame repeated",
    "frechet_shuffled": "held-out clips with their frames in random order",
}


def report(
    folder: Path, data: Path, ckpt_path: Path, samples: int, frames: int
) -> dict[str, float]:
    """Measure a finished demo, all that MEANING lists, and write its contact sheet.

    Args:
        folder: Folder of the demo; `samples` lies in it, `contact.png` is written to it.
        data: Folder of the real videos.
        ckpt_path: Checkpoint of stage 2.
        samples: Number of generated videos.
        frames: Frames of each.
    """
    arvae = Generator.from_pretrained(ckpt_path).arvae
    real = VideoDataModule(
        root=str(data), resolution=arvae.resolution, frames=CLIP, workers=0, val_fraction=0.1
    )
    train, held_out = read(real, "train"), read(real, "val")  # (N, F, 3, H, W)
    made = torch.stack(
        [read_frames(folder / "samples" / f"{i:06d}.mp4") for i in range(samples)]
    )  # (samples, frames, 3, H, W)
    with torch.no_grad():
        latents = encode(arvae, held_out)
        rebuilt = decode(arvae, latents)
        bank = arvae.normalise(torch.cat(encode(arvae, train)))
        drifts = nearest(arvae.normalise(torch.cat(encode(arvae, made))), bank=bank)
        near = nearest(arvae.normalise(torch.cat(latents)), bank=bank).mean()
    quarter = frames // 4
    first, last = drifts[:, :quarter].mean(), drifts[:, -quarter:].mean()
    sheet = contact_sheet(
        [row for i in range(0, min(len(held_out), 9), 3) for row in (held_out[i], rebuilt[i])]
        + [repeat_to(video, CLIP) for video in made[:SHOWN]],
        every=2,
    )
    with atomic_write(folder / "contact.png") as partial:
        sheet.resize((2 * sheet.width, 2 * sheet.height)).save(partial, "PNG")
    return {
        "psnr": float(psnr(held_out, rebuilt).mean()),
        "drift": float(last / first),
        "distance_first": float(first),
        "distance_last": float(last),
        "distance_held_out": float(near),
        "motion": motion(made),
        "motion_real": motion(held_out),
        **frechet(train, held_out=held_out, made=made),
    }


def read(data: VideoDataModule, split: str) -> Tensor:
    """Read every clip of a split, uint8 (N, F, 3, H, W), in an order that is always the same."""
    clips = data.main.cut(data.main.files, data.videos[split])
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(data.seed))
    return torch.stack([clips[i]["video"] for i in order.tolist()])


def repeat_to(video: Tensor, rows: int) -> Tensor:
    """Pick `rows` frames spread over a video (F, 3, H, W)."""
    return video[torch.linspace(0, len(video) - 1, rows).round().long()]


def encode(arvae: Autoencoder, video: Tensor) -> list[Tensor]:
    """Encode uint8 clips (N, F, 3, H, W) to tokens (N, F, L, C), in parts of eight clips."""
    return [arvae.encode(to_unit(part)) for part in video.split(8)]


def decode(arvae: Autoencoder, latents: Sequence[Tensor]) -> Tensor:
    """Decode tokens in parts to uint8 clips (N, F, 3, H, W)."""
    return to_bytes(torch.cat([arvae.decode(part) for part in latents]))


def nearest(latents: Tensor, bank: Tensor) -> Tensor:
    """Distance of each frame's tokens (N, F, L, C) to the nearest frame of a bank, (N, F)."""
    flat = rearrange(latents, "n f l c -> (n f) (l c)")
    rows = torch.cdist(flat, rearrange(bank, "n f l c -> (n f) (l c)")).amin(dim=1)
    per_token = rows / latents.shape[2] ** 0.5
    return rearrange(per_token, "(n f) -> n f", n=len(latents))


def motion(video: Tensor) -> float:
    """Mean absolute difference of neighbouring frames of uint8 video (N, F, 3, H, W)."""
    return float(video.float().diff(dim=1).abs().mean())


def frechet(train: Tensor, held_out: Tensor, made: Tensor) -> dict[str, float]:
    """Distances of several sets of clips to the training clips, all sets of one size."""
    clips = rearrange(made, "n (k f) c h w -> (n k) f c h w", f=CLIP)
    count = min(len(clips), len(held_out))
    held_out, clips = held_out[:count], clips[:count]
    order = torch.randperm(CLIP, generator=torch.Generator().manual_seed(0))
    sets = {
        "generated": clips,
        "held_out": held_out,
        "static": repeat(held_out[:, 0], "n c h w -> n f c h w", f=CLIP),
        "shuffled": held_out[:, order],
    }
    metric = FrechetVideoDistance(Random3D())
    for part in train.split(16):
        metric.update(real=part)
    scores = {}
    for name, video in sets.items():
        metric.reset_fake()
        metric.update(fake=video)
        scores[f"frechet_{name}"] = float(metric.compute())
    return scores
