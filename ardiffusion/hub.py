"""Networks and generators from wherever their weights are; `sources.py` says where that may be."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from ardiffusion.nn.autoencoder import Autoencoder
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.published import repository
from ardiffusion.published.presets import preset, published_sampling
from ardiffusion.sources import KINDS, Found, load_source
from ardiffusion.weights.card import Card
from ardiffusion.weights.download import HubPath, entry_names, list_files
from ardiffusion.weights.folders import push_to_hub, save_pretrained

__all__ = [
    "Card",
    "load_arvae",
    "load_dit",
    "load_parts",
    "load_published",
    "published_files",
    "push_to_hub",
    "save_pretrained",
]

REPOSITORY = re.compile(r"[A-Za-z0-9][\w-]*/[\w-]+")  # user/repo, which is no path of a file
# What is taken where a source does not say it itself.
ASSUMED = {
    "target": "what its network predicts (x_0 is assumed)",
    "schedule": "on which noise schedule (betas from 0.0001 to 0.02 are assumed)",
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
    found = load_source(source).networks.get("arvae")
    if not isinstance(found, Autoencoder):
        raise ValueError(f"{source} holds no AR-VAE; give the file or folder of one.")
    return found


def load_dit(source: str | Path) -> ARDiT | PublishedDiT:
    """Load a transformer of stage 2; see `load_arvae`."""
    found = load_source(source).networks.get("dit")
    if not isinstance(found, ARDiT | PublishedDiT):
        raise ValueError(
            f"{source} holds no transformer of stage 2; give the file or folder of one."
        )
    return found


def load_parts(
    source: str | Path, arvae: str | Path | None = None, classes: Sequence[str] = ()
) -> dict[str, Any]:
    """Load the arguments of a `Generator`; see `Generator.from_pretrained`."""
    name = str(source)
    if REPOSITORY.fullmatch(name) and not Path(name).exists():
        name = f"hf://{name}"
    return put_together(load_source(name), name, arvae=arvae, classes=classes)


def load_published(dataset: str, arvae: str | Path | None = None) -> dict[str, Any]:
    """Load the arguments of a `Generator`; see `Generator.published`."""
    chosen = preset(dataset)
    found = Found(settings=published_sampling())
    for kind, source in published_files(chosen.repository, dataset).items():
        if kind == "dit" or arvae is None:
            part = load_source(source)
            found.networks[kind] = part.networks[kind]
            found.settings |= part.settings if kind == "dit" else {}
    origin = f"hf://{chosen.repository} (or what the cache has of it)"
    return put_together(found, origin, arvae=arvae, classes=chosen.classes)


def put_together(
    found: Found, source: str, arvae: str | Path | None, classes: Sequence[str]
) -> dict[str, Any]:
    """Complete what a source holds to the arguments of a `Generator`, and say what is assumed."""
    if "dit" not in found.networks:
        raise ValueError(f"{source} holds no transformer of stage 2; correct --ckpt_path.")
    if arvae is None and "arvae" not in found.networks:
        raise ValueError(f"{source} holds no AR-VAE; name one with --arvae.")
    dit = found.networks["dit"]
    untold = [sentence for name, sentence in ASSUMED.items() if name not in found.settings]
    if untold:
        warnings.warn(
            f"{source} does not say {' and '.join(untold)}; `ardiff export` of its checkpoint "
            "writes a source that does.",
            stacklevel=4,
        )
    names = list(classes) if len(classes) == dit.classes else []
    return {
        **(published_sampling() if isinstance(dit, PublishedDiT) else {}),
        "classes": names,
        **found.settings,
        "dit": dit,
        "arvae": load_arvae(arvae) if arvae else found.networks["arvae"],
    }


def published_files(repo: str, dataset: str, revision: str = "main") -> dict[str, str]:
    """Find the published weights of a data set.

    Args:
        repo: The repository, user/repo.
        dataset: One of sky, taichi, ucf101 and ffs.
        revision: Branch, tag or commit.

    Returns:
        Sources for `load_arvae` and `load_dit`, under "arvae" and "dit".

    Raises:
        ValueError: If the repository holds none, or several of a kind between which only the
            user can choose.
    """
    wanted = preset(dataset)
    commit, names = list_files(HubPath(repo=repo, revision=revision))
    places = {
        name: HubPath(repo=repo, path=name, revision=commit)
        for name in repository.of_data_set(names, wanted)
    }
    kinds = {
        name: repository.kinds_by_entries(entry_names(place))
        if name.lower().endswith(".safetensors")
        else repository.kinds_by_name(name)
        for name, place in places.items()
    }
    found = {kind: repository.select_file(kinds, kind, wanted) for kind in KINDS}
    if not any(found.values()):
        listed = ", ".join(names) or "nothing"
        place = f"The cached part of {repo}" if constants.HF_HUB_OFFLINE else repo
        raise ValueError(f"{place} holds no published weights for {dataset}; it holds: {listed}.")
    for paths in found.values():
        if len(paths) > 1:
            listed = ", ".join(str(places[path]) for path in paths)
            raise ValueError(
                f"There are several published files for {dataset}; name one of them: {listed}."
            )
    return {kind: str(places[paths[0]]) for kind, paths in found.items() if paths}
