"""How fast stage 2 trains: tokens and clips per second, and model FLOPs utilisation (MFU).

MFU = operations of the network's products / (seconds x what the GPU computes at most)
"""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from ardiffusion.nn.flops import TRAINING, flops
from ardiffusion.training.peaks import device_peak


class Throughput(Callback):
    """Logs the speed of stage 2 since the trainer last logged, and waits for the GPU only then.

    `speed/tokens_per_second` and `speed/clips_per_second` are those of all devices together;
    `speed/mfu` is logged where the peak of the GPU is known. The first step, validation and what
    runs in it are left out; reading data, encoding clips without a latent cache, averaging
    weights and writing checkpoints take their time.
    """

    def __init__(self) -> None:
        self.started: float | None = None  # none until the first step is over
        self.peak: float | None = None
        self.step = 0
        self.restart()

    def restart(self) -> None:
        """Forget what was counted."""
        self.seconds, self.clips, self.tokens, self.operations = 0.0, 0, 0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look up the device's peak and wait for the first step."""
        self.peak = device_peak(pl_module.device, precision=str(trainer.precision))
        self.step, self.started = trainer.global_step, None
        self.restart()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: dict[str, Any],
        batch_idx: int,
    ) -> None:
        """Count a batch; log if the trainer logs this step."""
        self.count(batch, dit=pl_module.dit)  # pyright: ignore[reportArgumentType]
        if trainer.global_step == self.step:  # gathering gradients
            return
        self.step = trainer.global_step
        every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if self.started is None:
            self.resume(pl_module.device)
            self.restart()
        elif every > 0 and self.step % every == 0:
            self.pause(pl_module.device)
            rates = self.rates(trainer.world_size)
            pl_module.log_dict(rates)
            shown = rates["speed/tokens_per_second"]
            pl_module.log("tokens/s", shown, prog_bar=True, logger=False)
            self.resume(pl_module.device)
            self.restart()

    def count(self, batch: dict[str, Any], dit: nn.Module) -> None:
        """Add the clips of a batch, what they hold and what they cost."""
        shape = batch["latents" if "latents" in batch else "video"].shape
        clips, frames = shape[:2]
        self.clips += clips
        self.tokens += clips * frames * int(dit.tokens)  # pyright: ignore[reportArgumentType]
        self.operations += clips * TRAINING * (flops(dit, frames) or 0)

    def rates(self, devices: int) -> dict[str, torch.Tensor]:
        """Return what is logged; tensors of the CPU, which nobody has to wait for."""
        rates = {
            "speed/tokens_per_second": self.tokens * devices / self.seconds,
            "speed/clips_per_second": self.clips * devices / self.seconds,
        }
        if self.peak is not None and self.operations:
            rates["speed/mfu"] = self.operations / self.seconds / self.peak
        return {name: torch.tensor(rate) for name, rate in rates.items()}

    def pause(self, device: torch.device) -> None:
        """Stop the clock."""
        if self.started is not None:
            self.seconds += now(device) - self.started

    def resume(self, device: torch.device) -> None:
        """Start the clock."""
        self.started = now(device)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave validation out."""
        self.pause(pl_module.device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on after validation."""
        if self.started is not None:
            self.resume(pl_module.device)


def now(device: torch.device) -> float:
    """Return the time at which the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
