"""One loader for every source of a model: a folder, a file, or the Hugging Face Hub.

A source is a folder that `save_pretrained` wrote, a folder of two such or with a single file, a
file of weights (ours, published, or a Lightning checkpoint of ours, whatever its name), the folder
of an AutoencoderKL of diffusers, or hf://user/repo[/path][@revision]. Who made a file is known by
what it says of itself, never by its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ardiffusion.convert import from_diffusers, from_published
from ardiffusion.nn.autoencoder import Autoencoder
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.published import diffusers
from ardiffusion.published.schedule import published_schedule
from ardiffusion.weights.checkpoint import build_networks, read_parts
from ardiffusion.weights.description import build
from ardiffusion.weights.download import HubPath, fetch, list_files, parse_hub_path
from ardiffusion.weights.folders import CONFIG, METADATA_KEY, WEIGHTS, parse_config, read_config
from ardiffusion.weights.strict import assign_weights
from ardiffusion.weights.tensor_files import SUFFIXES, read_tensors

# Subclasses included: a JointDiT is an ARDiT.
KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "arvae": (Autoencoder,),
    "dit": (ARDiT, PublishedDiT),
}
BUILT = ("schedule", "target", "solver")  # parts of a generator besides its networks
PLAIN = ("steps", "difference", "guidance", "guided_frames", "classes")


@dataclass
class Found:
    """What a source holds.

    Attributes:
        networks: Its networks, "arvae", "dit" or both.
        settings: What it says besides, as arguments of `Generator`: nothing that it does not say.
    """

    networks: dict[str, nn.Module] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def load_source(source: str | Path) -> Found:
    """Load all that a source holds; see the head of this file for what it may be."""
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


def load_hub(source: HubPath) -> Found:
    """Load from the Hub: a file, a folder that `save_pretrained` wrote, or its only weights."""
    if source.path.endswith(SUFFIXES):
        return load_file(fetch(source)[0])
    try:
        return load_hub_folder(source)
    except FileNotFoundError as error:
        commit, names = list_files(source)
        names = [name.removeprefix(f"{source.path}/") for name in names]
        parts = [kind for kind in KINDS if f"{kind}/{CONFIG}" in names]
        if parts:
            return together([load_hub_folder((source / kind).at(commit)) for kind in parts])
        weights = [name for name in names if name.endswith(SUFFIXES)]
        if not weights:
            raise error
        if len(weights) > 1:
            raise ValueError(
                f"{source} holds several files, name one: {', '.join(weights)}."
            ) from None
        return load_file(fetch((source / weights[0]).at(commit))[0])


def load_hub_folder(folder: HubPath) -> Found:
    """Load from a folder with a configuration on the Hub."""
    config, commit = fetch(folder / CONFIG)
    found = diffusers.is_diffusers(read_config(config))
    fetch((folder / (diffusers.WEIGHTS if found else WEIGHTS)).at(commit))
    return load_folder(config.parent)


def load_folder(folder: Path) -> Found:
    """Load from a folder: one of `save_pretrained`, one of two such, or one with a single file."""
    config = folder / CONFIG
    if config.is_file():
        described = read_config(config)
        if diffusers.is_diffusers(described):
            return Found({"arvae": from_diffusers(folder)})
        if not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(f"{folder} holds {CONFIG} but no {WEIGHTS}.")
        return assemble(described, read_tensors(folder / WEIGHTS)[0], source=str(config))
    parts = [folder / kind for kind in KINDS if (folder / kind / CONFIG).is_file()]
    if parts:
        return together([load_folder(part) for part in parts])
    weights = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES]
    if len(weights) != 1:
        listed = ", ".join(path.name for path in weights) or "none"
        raise FileNotFoundError(
            f"{folder} must hold {CONFIG} and {WEIGHTS} or one file of weights, not: {listed}."
        )
    return load_file(weights[0])


def together(parts: list[Found]) -> Found:
    """Return what several sources hold as that of one."""
    networks = {kind: network for part in parts for kind, network in part.networks.items()}
    settings = {name: value for part in parts for name, value in part.settings.items()}
    return Found(networks, settings)


def load_file(path: Path) -> Found:
    """Load from a file of ours or a published one."""
    tensors, notes = read_tensors(path)
    if METADATA_KEY in notes:
        described = parse_config(notes[METADATA_KEY], source=str(path))
        return assemble(described, tensors, source=str(path))
    if "state_dict" in tensors:
        return from_checkpoint(tensors, source=str(path))
    return published(tensors, source=str(path))


def published(tensors: Mapping[str, Any], source: str, **told: Any) -> Found:  # noqa: ANN401
    """Convert a published file.

    Args:
        tensors: What it holds.
        source: Where it comes from, for error messages.
        told: What its shapes cannot tell, as arguments of `from_published`.
    """
    state = {name.removeprefix("module."): value for name, value in tensors.items()}
    try:
        networks = from_published(state, **told)
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from error
    schedule = published_schedule(state)
    return Found(networks, {"schedule": schedule} if schedule else {})


def from_checkpoint(checkpoint: Mapping[str, Any], source: str) -> Found:
    """Build what one of our Lightning checkpoints holds around its own tensors.

    Args:
        checkpoint: What `torch.load` returned for it.
        source: Where it comes from, for error messages.
    """
    parts = read_parts(checkpoint, source=source)
    networks = build_networks(checkpoint["state_dict"], parts, source=source)
    return Found(networks, read_settings(parts, source=source))


def assemble(description: dict[str, Any], tensors: Mapping[str, Any], source: str) -> Found:
    """Build what a configuration describes around the tensors of a file.

    Raises:
        ValueError: If the configuration does not describe a model of ours, or another one.
    """
    if description.get("class") != "Generator":
        network = build(description, source=source)
        if not isinstance(network, nn.Module):
            raise ValueError(f"{source} describes no network.")
        assign_weights(network, tensors, source=f"The weights of {source}")
        networks = {kind: network for kind, of in KINDS.items() if isinstance(network, of)}
        return Found(networks, read_settings(description, source=source))
    checkpoint = {"state_dict": tensors, "parts": description}
    return from_checkpoint(checkpoint, source=source)


def read_settings(parts: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return what descriptions say of a generator besides its networks, as its arguments."""
    settings = {name: build(parts[name], source=source) for name in BUILT if name in parts}
    settings |= {name: parts[name] for name in PLAIN if name in parts}
    for name in PLAIN[:-1]:
        if not isinstance(settings.get(name, 1), int | float | None):
            raise ValueError(f"{source} says {name} {settings[name]!r}, which is no number.")
    classes = settings.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"{source} names classes {classes!r}, which is no list of texts.")
    return settings
