"""One loader for every source of a model: a folder, a file, or the Hugging Face Hub.

A source is a folder that `save_pretrained` wrote, a folder of two such or with a single file, a
file of weights (ours, published, or a Lightning checkpoint of ours, whatever its name), the folder
of an AutoencoderKL of diffusers, or hf://user/repo[/path][@revision]. Who made a file is known by
what it says of itself, never by its name.

What a source holds comes as arguments of `Generator`: "dit", "arvae" or both, and nothing else
that it does not say.
"""

from collections.abc import Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from torch import nn

from ardiffusion.convert import (
    DIFFUSERS_WEIGHTS,
    from_diffusers,
    from_published,
    is_diffusers,
)
from ardiffusion.files import has_type
from ardiffusion.nn.autoencoder import Autoencoder
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.published.dit import published_schedule
from ardiffusion.weights.checkpoint import read_parts
from ardiffusion.weights.description import assign_weights, build
from ardiffusion.weights.download import HubPath, fetch, list_files, parse_hub_path
from ardiffusion.weights.folders import CONFIG, METADATA_KEY, WEIGHTS, parse_config, read_config
from ardiffusion.weights.tensor_files import SUFFIXES, read_tensors

# Subclasses included: a JointDiT is an ARDiT.
KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "arvae": (Autoencoder,),
    "dit": (ARDiT, PublishedDiT),
}
BUILT = ("schedule", "target", "solver")  # parts of a generator besides its networks
PLAIN = ("steps", "difference", "guidance", "guided_frames", "classes")
Parts = dict[str, Any]


def load_source(source: str | Path) -> Parts:
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


def load_hub(source: HubPath) -> Parts:
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
            return reduce(or_, [load_hub_folder((source / kind).at(commit)) for kind in parts])
        weights = [name for name in names if name.endswith(SUFFIXES)]
        if not weights:
            raise error
        if len(weights) > 1:
            raise ValueError(
                f"{source} holds several files, name one: {', '.join(weights)}."
            ) from None
        return load_file(fetch((source / weights[0]).at(commit))[0])


def load_hub_folder(folder: HubPath) -> Parts:
    config, commit = fetch(folder / CONFIG)
    found = is_diffusers(read_config(config))
    fetch((folder / (DIFFUSERS_WEIGHTS if found else WEIGHTS)).at(commit))
    return load_folder(config.parent)


def load_folder(folder: Path) -> Parts:
    """Load from a folder: one of `save_pretrained`, one of two such, or one with a single file."""
    config = folder / CONFIG
    if config.is_file():
        described = read_config(config)
        if is_diffusers(described):
            return {"arvae": from_diffusers(folder)}
        if not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(f"{folder} holds {CONFIG} but no {WEIGHTS}.")
        return assemble(described, read_tensors(folder / WEIGHTS)[0], source=str(config))
    parts = [folder / kind for kind in KINDS if (folder / kind / CONFIG).is_file()]
    if parts:
        return reduce(or_, map(load_folder, parts))
    weights = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES]
    if len(weights) != 1:
        listed = ", ".join(path.name for path in weights) or "none"
        raise FileNotFoundError(
            f"{folder} must hold {CONFIG} and {WEIGHTS} or one file of weights, not: {listed}."
        )
    return load_file(weights[0])


def load_file(path: Path) -> Parts:
    tensors, notes = read_tensors(path)
    if METADATA_KEY in notes:
        described = parse_config(notes[METADATA_KEY], source=str(path))
        return assemble(described, tensors, source=str(path))
    if "state_dict" in tensors:
        return from_checkpoint(tensors, source=str(path))
    return published(tensors, source=str(path))


def published(tensors: Mapping[str, Any], source: str, **told: Any) -> Parts:  # noqa: ANN401
    """Convert a published file; `told` is what its shapes cannot tell `from_published`."""
    state = {name.removeprefix("module."): value for name, value in tensors.items()}
    try:
        networks = from_published(state, **told)
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from error
    schedule = published_schedule(state)
    return networks | ({"schedule": schedule} if schedule else {})


def from_checkpoint(checkpoint: Mapping[str, Any], source: str) -> Parts:
    """Build what one of our Lightning checkpoints holds around its own tensors."""
    parts, networks = read_parts(checkpoint, source=source), {}
    for kind in (kind for kind in KINDS if kind in parts):
        network = build(parts[kind], source=source)
        weights = {n: v for n, v in checkpoint["state_dict"].items() if n.startswith(f"{kind}.")}
        names = {name: f"{kind}.{name}" for name in network.state_dict()}
        networks[kind] = assign_weights(network, weights, names=names, source=source)
    return networks | read_settings(parts, source=source)


def assemble(description: dict[str, Any], tensors: Mapping[str, Any], source: str) -> Parts:
    """Build what a configuration describes around the tensors of a file."""
    if description.get("class") == "Generator":
        checkpoint = {"state_dict": tensors, "parts": description}
        return from_checkpoint(checkpoint, source=source)
    network = build(description, source=source)
    kinds = [kind for kind, classes in KINDS.items() if isinstance(network, classes)]
    if not kinds:
        raise ValueError(f"{source} describes no network.")
    assign_weights(network, tensors, source=f"The weights of {source}")
    return {kinds[0]: network} | read_settings(description, source=source)


def read_settings(parts: Mapping[str, Any], source: str) -> Parts:
    """Read what descriptions say of a generator besides its networks."""
    settings = {name: build(parts[name], source=source) for name in BUILT if name in parts}
    settings |= {name: parts[name] for name in PLAIN if name in parts}
    for name in PLAIN[:-1]:
        if not isinstance(settings.get(name, 1), int | float | None):
            raise ValueError(f"{source} says {name} {settings[name]!r}, which is no number.")
    if not has_type(settings.get("classes", []), list[str]):
        names = settings["classes"]
        raise ValueError(f"{source} names classes {names!r}, which is no list of texts.")
    return settings
