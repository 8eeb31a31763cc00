"""Autoencoders as diffusers saves them, config.json beside their weights, as a `GridVAE`."""

import json
import re
from pathlib import Path
from typing import Any

import torch

from ardiffusion.nn.grid import GridVAE
from ardiffusion.weights.strict import assign_weights
from ardiffusion.weights.tensor_files import read_safetensors

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


def is_diffusers(config: Path) -> bool:
    """Tell whether a config.json is diffusers' of an autoencoder."""
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except ValueError:
        return False  # for whoever reads it next to complain
    return isinstance(found, dict) and found.get("_class_name") == CLASS


def from_diffusers(folder: str | Path, resolution: int | None = None) -> GridVAE:
    """Load an autoencoder that diffusers saved.

    Args:
        folder: The folder of config.json and diffusion_pytorch_model.safetensors.
        resolution: The height and width of a frame; the configuration's if not given. The network
            is convolutional and takes others too.

    Raises:
        FileNotFoundError: If one of the two files is not there.
        ValueError: If they hold something else.
    """
    path = Path(folder, "config.json")
    config = json.loads(path.read_text(encoding="utf-8"))
    if not Path(folder, WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} holds config.json but no {WEIGHTS}: add it.")
    given = {ours: config[theirs] for theirs, ours in ARGUMENTS.items() if theirs in config}
    if resolution is not None:
        given["resolution"] = resolution
    try:
        with torch.device("meta"):
            arvae = GridVAE(**given)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be built: {error}") from error
    check_config(config, arvae, source=path)
    tensors, _ = read_safetensors(Path(folder, WEIGHTS))
    weights = {f"network.{new_name(name)}": value for name, value in tensors.items()}
    weights["shift"], weights["scale"] = moments(config, channels=arvae.channels)
    names = {name: name for name in arvae.state_dict()}
    return assign_weights(arvae, weights, names=names, source=str(Path(folder, WEIGHTS)))


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
