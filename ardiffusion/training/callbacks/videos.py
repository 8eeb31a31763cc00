"""Callback that shows videos in TensorBoard, as GIF files made by Pillow.

TensorBoard's own `add_video` needs moviepy below 2 and logs nothing without it.
"""

import io
from collections.abc import Mapping

import torch
from einops import rearrange
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.types import STEP_OUTPUT
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from ardiffusion.diffusion.noise import sample_seeds
from ardiffusion.generator import Generator
from ardiffusion.training.callbacks.fvd import is_due


class VideoLogger(Callback):
    """Shows videos under TensorBoard's images at every validation; without TensorBoard it rests.

    Where the validation step returns {"real", "fake"}, as the AR-VAE's does, `reconstructions` has
    real clips of the first batch on the left and their reconstructions on the right. In
    stage 2 `samples` has videos from the same noise every time.

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
        self.clips = clips
        self.frames = frames
        self.fps = fps
        self.every_n_epochs = every_n_epochs
        self.seed = seed

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
        return first and bool(_writers(trainer)) and is_due(trainer, self.every_n_epochs)

    def _show(self, trainer: Trainer, tag: str, video: Tensor) -> None:
        if trainer.is_global_zero:
            column = rearrange(video, "b f c h w -> f c (b h) w")
            height, width = column.shape[-2:]
            gif = encode_gif(column, fps=self.fps)
            image = Summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=gif
            )
            summary = Summary(value=[Summary.Value(tag=tag, image=image)])
            # The step that Lightning logs scalars at.
            step = trainer.fit_loop.epoch_loop._batches_that_stepped
            for logger in _writers(trainer):
                logger.experiment.file_writer.add_summary(summary, step)


def encode_gif(video: Tensor, fps: int) -> bytes:
    """Encode a uint8 video (F, 3, H, W) as a GIF that plays without end."""
    pictures = [Image.fromarray(rearrange(x, "c h w -> h w c").cpu().numpy()) for x in video]
    first, *rest = pictures
    file = io.BytesIO()
    first.save(file, format="GIF", save_all=True, append_images=rest, duration=1000 // fps, loop=0)
    return file.getvalue()


def _writers(trainer: Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
