"""Why a loss fluctuates: one trained network, and noise levels that clips share, or do not.

`python -m experiments.loss_levels runs/dit/checkpoints/last.ckpt my_latents`
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from ardiffusion.data.latents import LatentCache
from ardiffusion.data.storage import locate
from ardiffusion.diffusion.timesteps import FoPP, Independent
from ardiffusion.nn.sizes import check_range
from ardiffusion.tools.loss_curve import fluctuation
from ardiffusion.training.diffusion import DiffusionModule
from experiments.command import run_script


def loss_levels(
    ckpt_path: str, latents: str, batches: int = 160, batch_size: int = 8, seed: int = 0
) -> dict[str, float]:
    """Measure how the losses of batches scatter around their median, for three kinds of timesteps.

    `fopp` are those of FoPP. `exchanged` are the same numbers, each frame's exchanged between the
    clips of all batches, so that a frame keeps its distribution and a clip's frames share nothing.
    `independent` are uniform ones.

    Args:
        ckpt_path: Checkpoint of stage 2.
        latents: Latent cache of clips.
        batches: Batches of each kind.
        batch_size: Clips of a batch.
        seed: Seed of clips, noise and timesteps.
    """
    check_range("--{}", 2, batches=batches)
    check_range("--{}", 1, batch_size=batch_size)
    module = DiffusionModule.load_from_checkpoint(ckpt_path).eval()
    generator, schedule = torch.Generator().manual_seed(seed), module.schedule
    clips, labels = read_clips(module, latents)
    count, frames = batches * batch_size, clips.shape[1]
    fopp = FoPP(schedule.timesteps)(count, frames, generator=generator)
    kinds = {
        "fopp": fopp,
        "exchanged": exchanged(fopp, generator),
        "independent": Independent(schedule.timesteps)(count, frames, generator=generator),
    }
    found = {}
    for name, t in kinds.items():
        parts = track(t.split(batch_size), name, total=batches)
        losses = [*batch_losses(module, clips, labels, parts, generator)]
        found[name] = fluctuation(np.array(losses))
    return found


def read_clips(module: DiffusionModule, latents: str) -> tuple[Tensor, Tensor]:
    """Read normalised latents (N, F, L, C) and their classes (N,)."""
    cache = LatentCache(locate(latents))
    rows = [(cache.index["labels"][video], found) for video, _, found in cache.every_clip()]
    clips = module.latents({"latents": torch.stack([found for _, found in rows]).float()})
    return clips, torch.tensor([label for label, _ in rows])


def exchanged(t: Tensor, generator: torch.Generator) -> Tensor:
    """Exchange the timesteps (N, F) of each frame between clips."""
    order = torch.rand(t.shape, generator=generator).argsort(dim=0)
    return t.gather(dim=0, index=order)


@torch.no_grad()
def batch_losses(
    module: DiffusionModule,
    clips: Tensor,
    labels: Tensor,
    timesteps: Iterable[Tensor],
    generator: torch.Generator,
) -> Iterator[float]:
    """Yield the loss of a batch of drawn clips for each batch of timesteps (B, F)."""
    for t in timesteps:
        chosen = torch.randint(len(clips), (len(t),), generator=generator)
        x, label = clips[chosen], labels[chosen]
        noise = torch.randn(x.shape, generator=generator)
        yield float(module.loss(x, label=label, t=t, noise=noise, null=None, seen=x).mean())


def main(args: list[str] | None = None) -> None:
    """Run the command line; the last line of its output is one JSON object."""
    run_script(loss_levels, args)


if __name__ == "__main__":
    main()
