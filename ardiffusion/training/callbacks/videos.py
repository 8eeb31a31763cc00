"""Callback that shows videos where a run is logged, or keeps them beside its log.

TensorBoard's own `add_video` needs moviepy below 2 and logs nothing without it, so that it gets
GIF files made by Pillow.
"""

import io
from collections.abc import Mapping

import torch
from einops import rearrange
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.types import STEP_OUTPUT
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from ardiffusion.data.writer import write_video
from ardiffusion.diffusion.noise import sample_seeds
from ardiffusion.generator import Generator
from ardiffusion.nn.sizes import LARGEST, check_range
from ardiffusion.training.callbacks.fvd import is_due
from ardiffusion.training.step_guard import log_folder


class VideoLogger(Callback):
    """Shows videos at every validation: under TensorBoard's images, and as videos in W&B.

    Where a run has no logger, or one that takes no videos, they are MP4 files in `media` in its
    folder. `reconstructions` has real clips of the first batch on the left and their
    reconstructions on the right, where the validation step returns {"real", "fake"} as the
    AR-VAE's does. In stage 2 `samples` has videos from the same noise every time.

    Args:
        clips: How many clips are shown, below each other.
        frames: Frames per generated video.
        fps: Frames per second.
        every_n_epochs: Show videos after every so many epochs only.
        seed: Seed of the samples.
    """

    def __init__(
        self,
        clips: int = 4,
        frames: int = 16,
        fps: int = 8,
        every_n_epochs: int = 1,
        seed: int = 0,
    ) -> None:
        sizes = {"clips": clips, "frames": frames, "fps": fps, "every_n_epochs": every_n_epochs}
        check_range("{} of VideoLogger", 1, LARGEST, **sizes)
        self.clips, self.frames, self.fps = clips, frames, fps
        self.every_n_epochs, self.seed = every_n_epochs, seed

    # At the first batch averaged weights are in place whatever the order of the callbacks.
    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        indices = range(self.clips)
        generator: Generator | None = getattr(pl_module, "generator", None)
        if generator is not None and self._has_turn(trainer, batch_idx, dataloader_idx):
            size = generator.batch_size
            # By every process, in case the network is spread over them.
            parts = [
                generator.generate(
                    sample_seeds(self.seed, part),
                    frames=self.frames,
                    labels=generator.labels_in_turn(part),
                )
                for part in (indices[i : i + size] for i in range(0, len(indices), size))
            ]
            self._show(trainer, "samples", torch.cat(parts))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not isinstance(outputs, Mapping) or not {"real", "fake"} <= outputs.keys():
            return
        if self._has_turn(trainer, batch_idx, dataloader_idx):
            pairs = torch.cat([outputs["real"], outputs["fake"]], dim=-1)[: self.clips]
            self._show(trainer, "reconstructions", pairs)

    def _has_turn(self, trainer: Trainer, batch_idx: int, dataloader_idx: int) -> bool:
        first = batch_idx == 0 and dataloader_idx == 0
        trial = trainer.fast_dev_run  # pyright: ignore[reportAttributeAccessIssue]
        return first and not trial and is_due(trainer, self.every_n_epochs)

    def _show(self, trainer: Trainer, tag: str, video: Tensor) -> None:
        folder = log_folder(trainer) / "media"
        if not trainer.is_global_zero:
            return
        column = rearrange(video, "b f c h w -> f c (b h) w")
        # The step that Lightning logs scalars at.
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        others = [x for x in trainer.loggers if not isinstance(x, TensorBoardLogger)]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                size = dict(zip(("height", "width"), column.shape[-2:], strict=True))
                gif = encode_gif(column, fps=self.fps)
                image = Summary.Image(**size, colorspace=3, encoded_image_string=gif)
                summary = Summary(value=[Summary.Value(tag=tag, image=image)])
                logger.experiment.file_writer.add_summary(summary, step)
        if others or not trainer.loggers:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{tag}_{step:08d}.mp4"
            write_video(file, frames=column, fps=self.fps)
            for logger in others:
                if isinstance(logger, WandbLogger):
                    logger.log_video(tag, [str(file)], step=step, format=["mp4"])


def encode_gif(video: Tensor, fps: int) -> bytes:
    """Encode a uint8 video (F, 3, H, W) as a GIF that plays without end."""
    pictures = [Image.fromarray(rearrange(x, "c h w -> h w c").cpu().numpy()) for x in video]
    first, *rest = pictures
    file = io.BytesIO()
    first.save(file, format="GIF", save_all=True, append_images=rest, duration=1000 // fps, loop=0)
    return file.getvalue()
