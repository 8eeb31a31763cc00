"""Whether data and networks match, asked before the first batch."""

from torch import nn

from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.timesteps import Timesteps
from ardiffusion.nn.autoencoder import Autoencoder
from ardiffusion.nn.fingerprint import fingerprint
from ardiffusion.training.data import VideoDataModule


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
            f"{arvae.resolution}; set both alike."
        )


def check_classes(classes: list[str], dit: nn.Module) -> None:
    """Raise if a generator has another number of classes than the data; none is fine."""
    if dit.classes not in (0, len(classes)):
        raise ValueError(
            f"The network has {dit.classes} classes, the data {len(classes)}; set dit.classes to "
            "the latter, or to 0 to ignore classes."
        )


def check_timesteps(drawn: Timesteps, schedule: NoiseSchedule) -> None:
    """Raise if training timesteps are not those of the schedule."""
    if drawn.timesteps != schedule.timesteps:
        raise ValueError(
            f"--model.timesteps draws from {drawn.timesteps} timesteps, but the schedule has "
            f"{schedule.timesteps}; set both alike."
        )
