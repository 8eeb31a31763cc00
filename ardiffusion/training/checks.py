"""What is checked before anything is trained, so that it ends in a sentence and not in a run."""

import os
from math import inf

import torch
from lightning import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_info

from ardiffusion.nn.sizes import check_range

MOST_PROCESSES = 64


def check_trainer_options(trainer: Trainer) -> None:
    """Raise if a trainer has an option that Lightning takes and that means nothing."""
    least = {
        "gradient_clip_val": 0,
        "accumulate_grad_batches": 1,
        "check_val_every_n_epoch": 1,
        "log_every_n_steps": 0,
        "num_sanity_val_steps": -1,
        "min_steps": 0,
        "min_epochs": 0,
    }
    for name, value in least.items():
        check_range("--trainer.{}", value, inf, **{name: getattr(trainer, name)})
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if getattr(trainer, name) == 0:
            raise ValueError(f"--trainer.{name} is 0, which trains nothing: leave it out.")
    for timer in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(timer, Timer) and timer._duration is not None and timer._duration <= 0:
            raise ValueError("--trainer.max_time must be above 0: name a time or leave it out.")
    if trainer.overfit_batches > 0:  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(
            "--trainer.overfit_batches takes away the order in which clips are loaded: leave it "
            "out, and name few videos by --data.train_list."
        )
    every = getattr(trainer, "val_check_interval", 1)  # not there if it is a time
    if not every > 0:
        raise ValueError(f"--trainer.val_check_interval must be above 0, got {every}.")


def say_of_compile(trainer: Trainer) -> None:
    """Tell who compiles for a CPU what it costs."""
    if isinstance(trainer.accelerator, CPUAccelerator):
        rank_zero_info("torch.compile takes a minute on a CPU and makes it slower; leave it out.")


def check_devices(accelerator: object, devices: object) -> None:
    """Raise if a configuration asks for more devices than there are; call it before the trainer.

    A CPU is one device, unless `cpu` is what was asked for: then devices are processes.
    """
    if isinstance(devices, str) and devices.lstrip("-").isdigit():
        devices = int(devices)
    if not isinstance(devices, int) or devices == -1:
        return
    check_range("--trainer.{}", 1, devices=devices)
    there = torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 0
    if devices > max(there, 1) and (there or accelerator == "auto"):
        found = f"there are {there}" if there > 1 else "there is 1"
        cpu = "" if there else f", or --trainer.accelerator cpu for {devices} processes on the CPU"
        raise ValueError(
            f"The configuration asks for {devices} devices, and {found}: set --trainer.devices "
            f"{max(there, 1)}{cpu}."
        )
    if devices > max(MOST_PROCESSES, os.cpu_count() or 1):
        raise ValueError(f"--trainer.devices is {devices}, too many processes for this machine.")
