"""Files of other projects as our networks: the published weights, TiTok's, and diffusers'."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ardiffusion.files import naming
from ardiffusion.nn.arvae import PublishedARVAE
from ardiffusion.nn.grid import GridVAE
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.published import arvae as tokenizer_names
from ardiffusion.published import dit as transformer_names
from ardiffusion.weights.description import Network, assign_weights, build
from ardiffusion.weights.folders import read_config
from ardiffusion.weights.tensor_files import read_safetensors

TOKENIZER = "vae."  # before the tokenizer's names in a file of both stages
DIFFUSERS_CLASS = "AutoencoderKL"
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
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


def from_published(
    state_dict: Mapping[str, Tensor],
    heads: int | None = None,
    tokens: int = 32,
    frames: int = 16,
    causal: bool = True,
    open_context: bool = True,
) -> dict[str, nn.Module]:
    """Build the networks that a published file holds, "arvae", "dit" or both, around its tensors.

    Args:
        state_dict: The file's tensors.
        heads: Number of attention heads, where the file does not tell: of the transformer, or of
            a tokenizer that comes alone.
        tokens: Tokens per frame.
        frames: Frames of the window.
        causal: Whether a frame of the transformer sees no later frame.
        open_context: Whether the transformer's context tokens see the frames.

    Raises:
        ValueError: If there is neither, or what there is does not fit; it names each fault.
    """
    state = {name.removeprefix("module."): value for name, value in state_dict.items()}
    nested = {n.removeprefix(TOKENIZER): v for n, v in state.items() if n.startswith(TOKENIZER)}
    rest = {name: value for name, value in state.items() if not name.startswith(TOKENIZER)}
    tokenizer = nested or (rest if tokenizer_names.QUERIES in rest else {})
    networks: dict[str, nn.Module] = {}
    if {tokenizer_names.QUERIES, tokenizer_names.VECTORS} <= tokenizer.keys():
        networks["arvae"] = from_titok(tokenizer, tokens=tokens)
    elif tokenizer:
        own = None if nested else heads
        networks["arvae"] = convert_arvae(tokenizer, heads=own, frames=frames)
    if any(name.startswith("diffusion_model.") for name in rest):
        transformer_names.published_schedule(rest)  # or its schedule is one we cannot follow
        given = {"heads": heads, "tokens": tokens, "frames": frames}
        sizes, weights = transformer_names.split_dit(rest, **given)
        names = partial(transformer_names.published_name, classes=sizes["classes"])
        sizes |= {"causal": causal, "open_context": open_context}
        networks["dit"] = build_around(weights, PublishedDiT, sizes, published_name=names)
    elif nested and rest:
        raise ValueError(
            f"The file has in surplus beside its tokenizer: {', '.join(sorted(rest))}."
        )
    if not networks:
        raise ValueError(
            "The file holds neither a published tokenizer nor a published transformer: its "
            f"entries are {', '.join(list(state)[:3])} and so on."
        )
    return networks


def convert_arvae(
    state: Mapping[str, Tensor], heads: int | None = None, frames: int = 16
) -> PublishedARVAE:
    arguments = tokenizer_names.arvae_arguments(state, heads=heads, frames=frames)
    weights = {n: tokenizer_names.without_units(n, value) for n, value in state.items()}
    names = tokenizer_names.published_name
    return build_around(weights, PublishedARVAE, arguments, published_name=names)


def build_around(
    weights: Mapping[str, Tensor],
    kind: type[Network],
    arguments: dict[str, Any],
    published_name: Callable[[str], str],
) -> Network:
    with torch.device("meta"):
        network = kind(**arguments)
    names = {name: published_name(name) for name in network.state_dict()}
    return assign_weights(network, weights, names=names)


def from_titok(
    state_dict: Mapping[str, Tensor], tokens: int = 32, channels: int = 4
) -> PublishedARVAE:
    """Start stage 1 from TiTok's own tokenizer, as the published models did.

    What it encodes means little before training, since TiTok's latents are discrete.

    Args:
        state_dict: The tensors of tokenizer_titok_l32.bin or a sibling.
        tokens: Tokens per frame.
        channels: Channels per token, at most half of TiTok's.
    """
    state = tokenizer_names.titok_as_published(state_dict, tokens=tokens, channels=channels)
    return convert_arvae(state)


def from_diffusers(folder: str | Path, resolution: int | None = None) -> GridVAE:
    """Load an autoencoder that diffusers saved: config.json and its weights in a folder.

    The configuration says the height and width of a frame if `resolution` does not; the network
    is convolutional and takes others too.
    """
    path, weights_file = Path(folder, "config.json"), Path(folder, DIFFUSERS_WEIGHTS)
    config = read_config(path)
    given = {ours: config[theirs] for theirs, ours in ARGUMENTS.items() if theirs in config}
    if resolution is not None:
        given["resolution"] = resolution
    with naming(path):
        arvae: GridVAE = build({"class": "GridVAE", "arguments": given})
        check_config(config, arvae)
    tensors, _ = read_safetensors(weights_file)
    weights = {f"network.{new_name(name)}": value for name, value in tensors.items()}
    with naming(path):
        weights["shift"], weights["scale"] = moments(config, channels=arvae.channels)
    with naming(weights_file):
        return assign_weights(arvae, weights)


def is_diffusers(config: dict[str, Any]) -> bool:
    return config.get("_class_name") == DIFFUSERS_CLASS


def check_config(config: dict[str, Any], arvae: GridVAE) -> None:
    """Refuse what a GridVAE is not built with: other blocks, other activations."""
    for name, ours in arvae.network.config.items():
        if name.startswith("_") or name in MOMENTS | IDLE | {"sample_size"}:
            continue
        theirs = config.get(name, ours)
        if theirs != (list(ours) if isinstance(ours, tuple) else ours):
            raise ValueError(
                f"The file has {name} {theirs}, GridVAE is built with {ours} only: choose another "
                "autoencoder."
            )


def new_name(name: str) -> str:
    """Return what an entry of older files is called now."""
    old = "|".join(OLD_NAMES)
    pattern = rf"(\.attentions\.\d+)\.({old})\."
    return re.sub(pattern, lambda match: f"{match[1]}.{OLD_NAMES[match[2]]}.", name)


def moments(config: dict[str, Any], channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation (C): where none are listed, one number for all."""
    shift = config.get("latents_mean") or [config.get("shift_factor") or 0.0] * channels
    factor = config.get("scaling_factor", 0.18215)  # diffusers' default
    try:
        scale = config.get("latents_std") or [1 / factor] * channels
        return torch.tensor(shift), torch.tensor(scale)
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        found = {name: config[name] for name in sorted(MOMENTS & config.keys())}
        raise ValueError(f"The file scales latents by {found}: these must be numbers.") from error
