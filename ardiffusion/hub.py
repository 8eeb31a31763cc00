"""Networks from wherever their weights are: a folder, a file, or the Hugging Face Hub.

A source is a folder that `save_pretrained` wrote, a file (.safetensors of ours or published, a
published .bin or .pt, a Lightning .ckpt of ours), the folder of an AutoencoderKL of diffusers, or
hf://user/repo[/path][@revision].
"""

import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from torch import nn

from ardiffusion.convert import from_published
from ardiffusion.nn.autoencoder import Autoencoder
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.published import diffusers as convert_grid
from ardiffusion.published.repository import published_files
from ardiffusion.weights.card import Card
from ardiffusion.weights.download import HubPath, fetch, list_files, parse_hub_path
from ardiffusion.weights.folders import (
    CONFIG,
    NOTE,
    WEIGHTS,
    assemble,
    build_empty,
    load_pretrained,
    save_pretrained,
)
from ardiffusion.weights.hub_errors import readable_hub_errors
from ardiffusion.weights.strict import assign_weights
from ardiffusion.weights.tensor_files import PICKLES, SUFFIXES, read_pickle, read_safetensors

__all__ = [
    "Card",
    "from_checkpoint",
    "load_arvae",
    "load_dit",
    "load_networks",
    "published_files",
    "push_to_hub",
    "save_pretrained",
]

# Subclasses included: a JointDiT is an ARDiT.
KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "arvae": (Autoencoder,),
    "dit": (ARDiT, PublishedDiT),
}


def load_arvae(source: str | Path) -> Autoencoder:
    """Load an AR-VAE, or another autoencoder in its place.

    Args:
        source: Folder, file or hf://user/repo[/path][@revision].

    Raises:
        ConnectionError: If the Hub cannot be reached, or refuses.
        FileNotFoundError: If there is no such source.
        ValueError: If it holds no AR-VAE, or a broken one; nothing in it is run.
    """
    found = load_networks(source).get("arvae")
    if not isinstance(found, Autoencoder):
        raise ValueError(f"{source} holds no AR-VAE; give the file or folder of one.")
    return found


def load_dit(source: str | Path) -> ARDiT | PublishedDiT:
    """Load a transformer of stage 2; see `load_arvae`."""
    found = load_networks(source).get("dit")
    if not isinstance(found, ARDiT | PublishedDiT):
        raise ValueError(
            f"{source} holds no transformer of stage 2; give the file or folder of one."
        )
    return found


def load_networks(source: str | Path) -> dict[str, nn.Module]:
    """Load what a source holds: "arvae", "dit" or both."""
    if str(source).startswith("hf://"):
        return load_hub(parse_hub_path(str(source)))
    path = Path(source)
    if path.is_dir():
        return load_folder(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file or folder {source}; sources on the Hub begin with hf://."
        )
    return load_file(path)


def load_hub(source: HubPath) -> dict[str, nn.Module]:
    """Load from the Hub: a file, a folder that `save_pretrained` wrote, or its only weights."""
    if source.path.endswith(SUFFIXES):
        return load_file(fetch(source)[0])
    try:
        config, commit = fetch(source / CONFIG)
    except FileNotFoundError as error:
        return load_file(fetch(only_weights(source, otherwise=error))[0])
    diffusers = convert_grid.is_diffusers(config)
    fetch(source.at(commit) / (convert_grid.WEIGHTS if diffusers else WEIGHTS))
    return load_folder(config.parent)


def only_weights(folder: HubPath, otherwise: Exception) -> HubPath:
    """Return the only weights file in and below a folder."""
    commit, names = list_files(folder)
    weights = [name for name in names if name.endswith(SUFFIXES)]
    if not weights:
        raise otherwise
    if len(weights) > 1:
        raise ValueError(f"{folder} holds several files, name one: {', '.join(weights)}.")
    return HubPath(repo=folder.repo, path=weights[0], revision=commit)


def load_folder(folder: Path) -> dict[str, nn.Module]:
    """Load from a folder: one of `save_pretrained`, one of two such, or one with a single file."""
    if (folder / CONFIG).is_file():
        if convert_grid.is_diffusers(folder / CONFIG):
            return {"arvae": convert_grid.from_diffusers(folder)}
        return sort_by_kind(load_pretrained(folder))
    parts = [folder / kind for kind in KINDS if (folder / kind / CONFIG).is_file()]
    if parts:
        return {kind: net for part in parts for kind, net in load_folder(part).items()}
    weights = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES]
    if len(weights) != 1:
        listed = ", ".join(path.name for path in weights) or "none"
        raise FileNotFoundError(
            f"{folder} must hold {CONFIG} and {WEIGHTS} or one file of weights, not: {listed}."
        )
    return load_file(weights[0])


def load_file(path: Path) -> dict[str, nn.Module]:
    """Load from a file of ours or a published one."""
    if path.suffix in PICKLES:
        found = read_pickle(path)
        if "state_dict" in found:
            return from_checkpoint(found, source=str(path))
        return published(found, source=str(path))
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is none of {', '.join(SUFFIXES)}.")
    tensors, notes = read_safetensors(path)
    if NOTE in notes:
        return sort_by_kind(assemble(notes[NOTE], tensors=tensors, source=str(path)))
    return published(tensors, source=str(path))


def published(state: dict[str, Any], source: str) -> dict[str, nn.Module]:
    """Convert a published state dict, naming its file where it does not fit."""
    try:
        return from_published(state)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def sort_by_kind(network: nn.Module) -> dict[str, nn.Module]:
    """Return a network by the name of its stage."""
    return {kind: network for kind, classes in KINDS.items() if isinstance(network, classes)}


def from_checkpoint(checkpoint: dict[str, Any], source: str) -> dict[str, nn.Module]:
    """Build the networks of one of our Lightning checkpoints around its own tensors.

    Args:
        checkpoint: What `torch.load` returned for it.
        source: Where it comes from, for error messages.
    """
    state, described = checkpoint["state_dict"], checkpoint.get("networks")
    if not isinstance(described, dict):
        raise ValueError(f"{source} is no checkpoint of ours: it does not describe its networks.")
    networks: dict[str, nn.Module] = {}
    for kind in KINDS.keys() & described.keys():
        network = build_empty(described[kind], source=source)
        weights = {n: v for n, v in state.items() if n.startswith(f"{kind}.")}
        names = {name: f"{kind}.{name}" for name in network.state_dict()}
        networks[kind] = assign_weights(network, weights, names=names, source=source)
    return networks


def push_to_hub(
    model: nn.Module, repository: str, card: Card | None = None, private: bool = False
) -> str:
    """Upload a model as `save_pretrained` writes it, creating the repository if need be.

    Args:
        model: One of our networks.
        repository: Where to, user/repo[/folder], with or without hf://.
        card: What its model card says beside its sizes.
        private: Whether a new repository is private.

    Returns:
        Its source for `load_arvae` or `load_dit`.
    """
    target = parse_hub_path(f"hf://{repository.removeprefix('hf://')}")
    with tempfile.TemporaryDirectory() as folder, readable_hub_errors(target):
        save_pretrained(model, folder, card=card)
        api = HfApi()
        api.create_repo(target.repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=target.repo,
            folder_path=folder,
            path_in_repo=target.path or None,
            revision=target.revision,
            commit_message=f"Upload {type(model).__name__}",
        )
    return str(target)
