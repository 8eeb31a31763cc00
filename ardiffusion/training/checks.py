"""What is checked before anything is trained, so that it ends in a sentence and not in a run."""

import os
from math import inf

import torch
from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from ardiffusion.diffusion.timesteps import Timesteps
from ardiffusion.generator import Generator
from ardiffusion.nn.autoencoder import Autoencoder
from ardiffusion.nn.cpu import has_bfloat16
from ardiffusion.nn.fingerprint import fingerprint
from ardiffusion.nn.sizes import check_range
from ardiffusion.sources import BUILT
from ardiffusion.training.data import VideoDataModule
from ardiffusion.weights.description import unknown

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


def suit_machine(trainer: Namespace) -> None:
    """Check a trainer's settings against this machine, and take a precision it is fast in."""
    accelerator = trainer.get("accelerator")
    check_devices(accelerator, trainer.get("devices"))
    trainer.precision = fast_precision(trainer.get("precision"), accelerator)


def fast_precision(precision: object, accelerator: object) -> object:
    """Return the precision, but float32 for bfloat16 on a CPU that has it in software alone."""
    auto = accelerator == "auto" and not torch.accelerator.is_available()
    if not (auto or accelerator == "cpu") or not str(precision).startswith("bf16"):
        return precision
    if has_bfloat16():
        return precision
    rank_zero_info(
        f"This CPU has bfloat16 in software alone, many times slower than float32: it computes in "
        f"32-true, not in {precision}."
    )
    return "32-true"


def check_devices(accelerator: object, devices: object) -> None:
    """Raise if a configuration asks for more devices than there are.

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


def check_videos(data: object, arvae: Autoencoder) -> None:
    """Raise unless what trains or measures an AR-VAE are videos of its size."""
    if isinstance(data, VideoDataModule) and data.latents is not None:
        raise ValueError("An AR-VAE reads videos, no latents: leave --data.latents to ardiff-dit.")
    check_clips(data, arvae)


def check_clips(data: object, arvae: Autoencoder) -> None:
    """Raise if videos come in another size than the AR-VAE takes, or latents from another one."""
    if not isinstance(data, VideoDataModule):
        return
    if data.latents is not None:
        data.check_latents(fingerprint(arvae))
    elif data.resolution != arvae.resolution:
        raise ValueError(
            f"--data.resolution is {data.resolution}, but the autoencoder takes "
            f"{arvae.resolution}: set it to that, or take another autoencoder."
        )


def check_generator(generator: Generator, classes: list[str], drawn: Timesteps) -> None:
    """Raise if a generator has not the classes of the data, or not the timesteps that are drawn.

    It may have no classes. Say if its checkpoints will be of no use but for this training.
    """
    if generator.dit.classes not in (0, len(classes)):
        raise ValueError(
            f"The network has {generator.dit.classes} classes, the data {len(classes)}; set "
            "dit.classes to the latter, or to 0 to ignore classes."
        )
    if drawn.timesteps != generator.schedule.timesteps:
        raise ValueError(
            f"--model.timesteps draws from {drawn.timesteps} timesteps, but the schedule has "
            f"{generator.schedule.timesteps}; set both alike."
        )
    if names := unknown(*(getattr(generator, name) for name in ("dit", "arvae", *BUILT))):
        rank_zero_warn(
            f"Nothing but this training can read its checkpoints, which need {', '.join(names)}: "
            "name own classes in PARTS, in ardiffusion/weights/description.py."
        )
