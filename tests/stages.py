"""The smallest networks, batches, data and trainers with which both stages can be trained."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader

from ardiffusion.nn.adversarial import Discriminator
from ardiffusion.nn.arvae import ARVAE
from ardiffusion.nn.dit import ARDiT
from ardiffusion.training.arvae import ARVAEModule
from ardiffusion.training.data import VideoDataModule
from ardiffusion.training.diffusion import DiffusionModule

ARVAE_SIZES = {
    "resolution": 16,
    "patch": 8,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "tokens": 2,
    "pixel_width": 4,
    "codebook": 8,
    "embedding": 8,
}
DIT_SIZES = {"width": 16, "depth": 1, "heads": 2, "tokens": 2}


def make_arvae(seed: int = 0, **options: Any) -> ARVAE:  # noqa: ANN401
    torch.manual_seed(seed)
    return ARVAE(**{**ARVAE_SIZES, **options})


def make_lively_arvae(seed: int = 0) -> ARVAE:
    """Make a network whose video depends on its latents, which takes training otherwise."""
    arvae = make_arvae(seed)
    for parameter in arvae.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1.0)
    nn.init.normal_(arvae.last_layer, std=0.05)
    nn.init.constant_(arvae.get_parameter("pixels.conv_out.bias"), 0.5)
    return arvae


def make_dit(seed: int = 0, **options: Any) -> ARDiT:  # noqa: ANN401
    """Make a network whose output is not zero, as it is at the start of training."""
    torch.manual_seed(seed)
    dit = ARDiT(**{**DIT_SIZES, **options})
    for parameter in dit.parameters():
        nn.init.normal_(parameter, std=0.3)
    return dit


def make_batches(count: int, batch: int = 2, frames: int = 2) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    size = (count, batch, frames, 3, 16, 16)
    videos = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    label = torch.arange(batch) % 2
    keys = [f"{i}.mp4:0" for i in range(batch)]
    return [{"video": video, "label": label, "key": keys} for video in videos]


def make_loader(count: int, batch: int = 2, frames: int = 2) -> DataLoader[Any]:
    batches: Any = make_batches(count, batch=batch, frames=frames)
    return DataLoader(batches, batch_size=None)


def make_data(root: Path | str | None, **options: Any) -> VideoDataModule:  # noqa: ANN401
    settings = {"resolution": 16, "frames": 4, "batch_size": 2, "workers": 0, "val_fraction": 0.2}
    place = {} if root is None else {"root": str(root)}
    place |= {"cache": str(root.parent / "index")} if isinstance(root, Path) else {}
    return VideoDataModule(**{**settings, **place, **options})


def make_trainer(**options: Any) -> Trainer:  # noqa: ANN401
    quiet = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
    )
    settings = {"accelerator": "cpu", "devices": 1, "max_steps": 1, "num_sanity_val_steps": 0}
    return Trainer(**{**quiet, **settings, **options})


def weights(module: LightningModule | nn.Module) -> dict[str, Tensor]:
    """Copy all weights and buffers."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def make_first_stage(kind: type[ARVAEModule] = ARVAEModule, **options: Any) -> ARVAEModule:  # noqa: ANN401
    torch.manual_seed(1)
    settings = {
        "arvae": make_arvae(),
        "perceptual": 0.0,
        "adversarial": 0.0,
        "adversarial_start": 0,
        "discriminator": Discriminator(width=4, layers=1),
        "optimizer": partial(SGD, lr=0.1),
        "discriminator_optimizer": partial(SGD, lr=0.1),
        "grad_clip": 0.0,
        "sampled": False,
    }
    return kind(**{**settings, **options})


def save_tokenizer(path: Path, seed: int = 0) -> Path:
    """Write the checkpoint of an AR-VAE after one batch."""
    module = ARVAEModule(make_lively_arvae(seed), perceptual=0.0, adversarial=0.0)
    trainer = make_trainer(max_steps=1)
    trainer.fit(module, make_loader(1))
    trainer.save_checkpoint(path)
    return path


def save_generator(path: Path, tokenizer: Path, skies: Path) -> Path:
    """Write the checkpoint of a generator with classes after one batch."""
    module = DiffusionModule(dit=make_dit(classes=4), arvae=str(tokenizer))
    trainer = make_trainer(max_steps=1)
    trainer.fit(module, datamodule=make_data(skies))
    trainer.save_checkpoint(path)
    return path


class Record(Callback):
    """Note what a function sees after every batch."""

    def __init__(self, look: Callable[[Trainer], object]) -> None:
        self.look, self.seen = look, []

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        self.seen.append(self.look(trainer))


class Crash(Callback):
    """Break off before a batch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            raise RuntimeError("crash")
