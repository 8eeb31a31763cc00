"""Whether data and networks match, asked before the first batch."""

from lightning.pytorch.utilities import rank_zero_warn

from ardiffusion.diffusion.timesteps import Timesteps
from ardiffusion.generator import Generator
from ardiffusion.nn.autoencoder import Autoencoder
from ardiffusion.nn.fingerprint import fingerprint
from ardiffusion.sources import BUILT
from ardiffusion.training.data import VideoDataModule
from ardiffusion.weights.description import unknown


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
