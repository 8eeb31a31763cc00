"""One loader for every source of a model: a folder, a file, or the Hugging Face Hub.

A source is a folder that `save_pretrained` wrote, a folder of two such or with a single file, a
file of weights (ours, published, or a Lightning checkpoint of ours, whatever its name), the folder
of an AutoencoderKL of diffusers, or hf://user/repo[/path][@revision]. Who made a file is known by
what it says of itself, never by its name.

What a source holds comes as arguments of `Generator`: "dit", "arvae" or both, and nothing else
that it does not say.
"""

from collections.abc import Callable, Mapping, Sequence
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
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import Solver
from ardiffusion.diffusion.target import Target
from ardiffusion.files import has_type, naming
from ardiffusion.nn.autoencoder import Autoencoder
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.published.dit import published_schedule
from ardiffusion.weights.checkpoint import read_parts
from ardiffusion.weights.description import UNFIT, assign_weights, build
from ardiffusion.weights.download import HubPath, fetch, list_files, parse_hub_path
from ardiffusion.weights.folders import CONFIG, METADATA_KEY, WEIGHTS, parse_config, read_config
from ardiffusion.weights.tensor_files import SUFFIXES, read_tensors

# Subclasses included: a JointDiT is an ARDiT.
KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "arvae": (Autoencoder,),
    "dit": (ARDiT, PublishedDiT),
}
# Parts of a generator besides its networks, and its settings.
BUILT: dict[str, type] = {"schedule": NoiseSchedule, "target": Target, "solver": Solver}
PLAIN: dict[str, Any] = {
    **{"steps": int, "difference": int, "guidance": float, "guided_frames": int | None},
    "classes": list[str],
}
NOT_OURS = "The file holds entries of published weights that have not their shapes."
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
    """Load from the Hub: a file, or what a folder holds."""
    if source.path.endswith(SUFFIXES):
        return load_file(fetch(source))
    commit, names = list_files(source)
    inside = [name.removeprefix(f"{source.path}/") for name in names]
    return load_tree(inside, lambda name: fetch((source / name).at(commit)), place=source)


def load_folder(folder: Path) -> Parts:
    files = [file for kind in ("", *KINDS) for file in sorted((folder / kind).glob("*"))]
    names = [file.relative_to(folder).as_posix() for file in files if file.is_file()]
    return load_tree(names, folder.joinpath, place=folder)


def load_tree(names: Sequence[str], get: Callable[[str], Path], place: object) -> Parts:
    """Load from a folder: one of `save_pretrained`, one of two such, or one with a single file."""
    if CONFIG in names:
        config = get(CONFIG)
        described = read_config(config)
        theirs = is_diffusers(described)
        weights = DIFFUSERS_WEIGHTS if theirs else WEIGHTS
        if weights not in names:
            raise FileNotFoundError(f"{place} holds {CONFIG} but no {weights}: add it.")
        file = get(weights)
        if theirs:
            return {"arvae": from_diffusers(config.parent)}
        tensors, _ = read_tensors(file)
        with naming(config):
            return assemble(described, tensors)

    def load_part(kind: str) -> Parts:
        inside = [name.removeprefix(f"{kind}/") for name in names if name.startswith(f"{kind}/")]
        return load_tree(inside, lambda name: get(f"{kind}/{name}"), place=f"{place}/{kind}")

    if parts := [kind for kind in KINDS if f"{kind}/{CONFIG}" in names]:
        return reduce(or_, map(load_part, parts))
    files = [name for name in names if name.endswith(SUFFIXES)]
    if len(files) != 1:
        listed = f"{', '.join(files)}; name one" if files else "none"
        raise FileNotFoundError(
            f"{place} must hold {CONFIG} and {WEIGHTS} or one file of weights, not: {listed}."
        )
    return load_file(get(files[0]))


def load_file(path: Path) -> Parts:
    tensors, notes = read_tensors(path)
    with naming(path):
        if METADATA_KEY in notes:
            return assemble(parse_config(notes[METADATA_KEY]), tensors)
        return from_checkpoint(tensors) if "state_dict" in tensors else published(tensors)


def published(tensors: Mapping[str, Any], **told: Any) -> Parts:  # noqa: ANN401
    """Convert a published file; `told` is what its shapes cannot tell `from_published`."""
    state = {name.removeprefix("module."): value for name, value in tensors.items()}
    try:
        networks, schedule = from_published(state, **told), published_schedule(state)
    except UNFIT as error:  # what is no tensor has no shape, and shapes may be of any kind
        raise ValueError(f"{error}" if isinstance(error, ValueError) else NOT_OURS) from error
    return networks | ({"schedule": schedule} if schedule else {})


def from_checkpoint(checkpoint: Mapping[str, Any]) -> Parts:
    """Build what one of our Lightning checkpoints holds around its own tensors."""
    parts, networks = read_parts(checkpoint), {}
    for kind in (kind for kind in KINDS if kind in parts):
        network = build_as(kind, parts[kind])
        weights = {n: v for n, v in checkpoint["state_dict"].items() if n.startswith(f"{kind}.")}
        names = {name: f"{kind}.{name}" for name in network.state_dict()}
        networks[kind] = assign_weights(network, weights, names=names)
    return networks | read_settings(parts)


def assemble(description: dict[str, Any], tensors: Mapping[str, Any]) -> Parts:
    """Build what a configuration describes around the tensors of a file."""
    if description.get("class") == "Generator":
        return from_checkpoint({"state_dict": tensors, "parts": description})
    network = build(description)
    kinds = [kind for kind, classes in KINDS.items() if isinstance(network, classes)]
    if not kinds:
        raise ValueError("The file describes no network.")
    return {kinds[0]: assign_weights(network, tensors)} | read_settings(description)


def read_settings(parts: Mapping[str, Any]) -> Parts:
    """Read what descriptions say of a generator besides its networks."""
    settings = {name: build_as(name, parts[name]) for name in BUILT if name in parts}
    settings |= {name: parts[name] for name in PLAIN if name in parts}
    for name, kind in PLAIN.items():
        if name in settings and not has_type(settings[name], kind):
            wanted = kind.__name__ if type(kind) is type else kind
            raise ValueError(f"The file says {name} {settings[name]!r}, which is no {wanted}.")
    return settings


def build_as(name: str, description: object) -> Any:  # noqa: ANN401
    """Build a part of a generator, which a description of another part is not."""
    part = build(description)
    if not isinstance(part, (KINDS | BUILT)[name]):
        raise ValueError(
            f"The file gives {type(part).__name__} as its {name}, which it cannot be: get the "
            "file again."
        )
    return part
