"""How fast stage 2 trains: tokens and clips per second, and model FLOPs utilisation (MFU).

MFU = operations of the network's products / (seconds x what the GPU computes at most)
"""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from ardiffusion.nn.flops import TRAINING, flops

# What GPUs compute at most by NVIDIA's data sheets, per second: 16-bit, TF32 and float32 products,
# without sparsity. Lightning's `get_available_flops` has the rates with sparsity for some of
# these, which no training reaches.
PEAKS = {
    "H200 NVL": (835e12, 418e12, 60e12),
    "H200": (989e12, 495e12, 67e12),
    "H100 NVL": (835e12, 418e12, 60e12),
    "H100 PCIE": (756e12, 378e12, 51e12),
    "H100": (989e12, 495e12, 67e12),
    "H800 PCIE": (756e12, 378e12, 51e12),
    "H800": (989e12, 495e12, 67e12),
    "A100": (312e12, 156e12, 19.5e12),
    "A800": (312e12, 156e12, 19.5e12),
    "L40S": (362e12, 183e12, 91.6e12),
    "L4": (121e12, 60e12, 30.3e12),
    "A10": (125e12, 62.5e12, 31.2e12),
}
MIXED = ("bf16-mixed", "bf16-true", "16-mixed", "16-true")


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
        self.seconds, self.clips, self.tokens, self.operations = 0.0, 0, 0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look up the device's peak and wait for the first step."""
        if not hasattr(pl_module, "dit"):
            raise ValueError("Throughput counts tokens of stage 2: leave it out in stage 1.")
        self.peak = device_peak(pl_module.device, precision=str(trainer.precision))
        self.step, self.started = trainer.global_step, None
        self.restart()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: dict[str, Any],
        *_: object,
        **__: object,
    ) -> None:
        self.count(batch, dit=pl_module.dit)  # pyright: ignore[reportArgumentType]
        if trainer.global_step == self.step:  # gathering gradients
            return
        self.step = trainer.global_step
        every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if self.started is None or (every > 0 and self.step % every == 0):
            if self.started is not None:
                self.pause(pl_module.device)
                rates = self.rates(trainer.world_size)
                pl_module.log_dict(rates)
                shown = rates["speed/tokens_per_second"]
                pl_module.log("tokens/s", shown, prog_bar=True, logger=False)
            self.started = now(pl_module.device)
            self.restart()

    def count(self, batch: dict[str, Any], dit: nn.Module) -> None:
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
        if self.started is not None:
            self.seconds += now(device) - self.started

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pause(pl_module.device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.started is not None:
            self.started = now(pl_module.device)


def now(device: torch.device) -> float:
    """Return the time at which the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_flops(name: str, precision: str) -> float | None:
    """Return the most operations per second of a device, or None if they are not known.

    The name is that of torch.cuda.get_device_name, the precision as Lightning spells it.
    """
    words = set(name.upper().replace("-", " ").split())
    found = [PEAKS[chip] for chip in PEAKS if words.issuperset(chip.split())]
    if not found or "MIG" in words:
        return None
    half, tf32, single = found[0]
    if precision in MIXED:
        return half
    if precision != "32-true":
        return None
    return single if torch.get_float32_matmul_precision() == "highest" else tf32


def device_peak(device: torch.device, precision: str) -> float | None:
    if device.type != "cuda":
        return None
    return peak_flops(torch.cuda.get_device_name(device), precision=precision)
