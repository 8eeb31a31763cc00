"""Autoencoders as diffusers saves them: config.json beside the weights of an AutoencoderKL."""

import re
from pathlib import Path
from typing import Any

import torch

from ardiffusion.nn.grid import GridVAE

CLASS = "AutoencoderKL"
WEIGHTS = "diffusion_pytorch_model.safetensors"
ARGUMENTS = {  # of GridVAE, by diffusers' names
    "sample_size": "resolution",
    "latent_channels": "channels",
    "block_out_channels": "widths",
    "layers_per_block": "layers",
    "norm_num_groups": "groups",
}
MOMENTS = {"scaling_factor", "shift_factor", "latents_mean", "latents_std"}
IDLE = {"force_upcast"}  # a hint for pipelines
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def is_diffusers(config: dict[str, Any]) -> bool:
    """Tell whether a config.json is diffusers' of an autoencoder."""
    return config.get("_class_name") == CLASS


def check_config(config: dict[str, Any], arvae: GridVAE, source: Path) -> None:
    """Refuse what a GridVAE is not built with: other blocks, other activations."""
    for name, ours in arvae.network.config.items():
        if name.startswith("_") or name in MOMENTS | IDLE | {"sample_size"}:
            continue
        theirs = config.get(name, ours)
        if theirs != (list(ours) if isinstance(ours, tuple) else ours):
            raise ValueError(
                f"{source} has {name} {theirs}, GridVAE is built with {ours} only: choose another "
                "autoencoder."
            )


def new_name(name: str) -> str:
    """Return what an entry of older files is called now."""
    old = "|".join(OLD_NAMES)
    pattern = rf"(\.attentions\.\d+)\.({old})\."
    return re.sub(pattern, lambda match: f"{match[1]}.{OLD_NAMES[match[2]]}.", name)


def moments(config: dict[str, Any], channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation (C) of each channel, as far as they are known.

    They are those per channel where the configuration lists them, else one number for all.
    """
    shift = config.get("latents_mean") or [config.get("shift_factor") or 0.0] * channels
    factor = config.get("scaling_factor", 0.18215)  # diffusers' default
    scale = config.get("latents_std") or [1 / factor] * channels
    return torch.tensor(shift), torch.tensor(scale)
