"""Loading a trained model of stage 2 for generation, from one of our checkpoints."""

from typing import Any

import torch
from torch import Tensor

from ardiffusion.describe import build
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.target import X0, Epsilon, Target, Velocity
from ardiffusion.nn.arvae import ARVAE
from ardiffusion.training.checkpoint import check_stage, read_checkpoint
from ardiffusion.training.diffusion import DiffusionModule

TARGETS: dict[str, type[Target]] = {t.__name__: t for t in (X0, Epsilon, Velocity)}


def load_generator(source: str) -> DiffusionModule:
    """Load a model with its AR-VAE, ready to generate; memory-mapped, without a second copy.

    Args:
        source: A checkpoint of `ardiff-dit fit`.
    """
    checkpoint = read_checkpoint(source)
    check_stage(checkpoint, stage="dit", source=source)
    with torch.device("meta"):  # takes no memory, whoever copies it
        dit, arvae = (build(checkpoint["networks"][name]) for name in ("dit", "arvae"))
    settings = checkpoint["diffusion"]
    schedule = {name: settings[name] for name in ("beta_start", "beta_end", "timesteps")}
    module = DiffusionModule(
        dit=dit,
        arvae=source,
        schedule=NoiseSchedule(**schedule),
        target=TARGETS[settings["target"]](),
    )
    for prefix, network in (("dit.", dit), ("arvae.", arvae)):
        network.load_state_dict(part(checkpoint["state_dict"], prefix), strict=True, assign=True)
    assert isinstance(arvae, ARVAE)
    module.adopt(arvae)
    module.classes = settings["classes"]
    return module.eval()


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Any]:
    """Return the entries whose names begin with a prefix, without it."""
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
