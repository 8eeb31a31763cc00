"""Networks and generators from wherever their weights are; `sources.py` says where that may be."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants

from ardiffusion.nn.autoencoder import Autoencoder
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.published import presets
from ardiffusion.sources import KINDS, Parts, load_source
from ardiffusion.weights.download import HubPath, entry_names, list_files
from ardiffusion.weights.folders import Card as Card
from ardiffusion.weights.folders import push_to_hub as push_to_hub
from ardiffusion.weights.folders import save_pretrained as save_pretrained

REPOSITORY = re.compile(r"[A-Za-z0-9][\w-]*/[\w-]+")  # user/repo, which is no path of a file
# What is taken where a source does not say it itself.
ASSUMED = {
    "target": "what its network predicts (x_0 is assumed)",
    "schedule": "on which noise schedule (betas from 0.0001 to 0.02 are assumed)",
}


def load_arvae(source: str | Path) -> Autoencoder:
    """Load an AR-VAE, or another autoencoder in its place; nothing in the source is run.

    Args:
        source: Folder, file or hf://user/repo[/path][@revision].

    Raises:
        OSError: If there is no such source, or the Hub does not hand it out.
        ValueError: If it holds no AR-VAE, or a broken one.
    """
    found = load_source(source).get("arvae")
    if not isinstance(found, Autoencoder):
        raise ValueError(f"{source} holds no AR-VAE; give the file or folder of one.")
    return found


def load_dit(source: str | Path) -> ARDiT | PublishedDiT:
    """Load a transformer of stage 2; see `load_arvae`."""
    found = load_source(source).get("dit")
    if not isinstance(found, ARDiT | PublishedDiT):
        raise ValueError(
            f"{source} holds no transformer of stage 2; give the file or folder of one."
        )
    return found


def load_parts(
    source: str | Path, arvae: str | Path | None = None, classes: Sequence[str] = ()
) -> Parts:
    """Load the arguments of a `Generator`; see `Generator.from_pretrained`."""
    name = str(source)
    if REPOSITORY.fullmatch(name) and not Path(name).exists():
        name = f"hf://{name}"
    return complete(load_source(name), name, arvae=arvae, classes=classes)


def load_published(dataset: str, arvae: str | Path | None = None) -> Parts:
    """Load the arguments of a `Generator`; see `Generator.published`."""
    chosen, found = presets.preset(dataset), presets.published_sampling()
    for kind, source in published_files(chosen.repository, dataset).items():
        if kind == "dit" or arvae is None:
            part = load_source(source)
            found |= {name: part[name] for name in (kind, "schedule") if name in part}
    origin = f"hf://{chosen.repository} (or what the cache has of it)"
    return complete(found, origin, arvae=arvae, classes=chosen.classes)


def complete(
    found: Parts, source: str, arvae: str | Path | None, classes: Sequence[str] = ()
) -> Parts:
    """Complete what a source holds to the arguments of a `Generator`, and say what is assumed."""
    if "dit" not in found:
        raise ValueError(f"{source} holds no transformer of stage 2; correct --ckpt_path.")
    if arvae is None and "arvae" not in found:
        raise ValueError(f"{source} holds no AR-VAE; name one with --arvae.")
    dit = found["dit"]
    untold = [sentence for name, sentence in ASSUMED.items() if name not in found]
    if untold:
        warnings.warn(
            f"{source} does not say {' and '.join(untold)}; `ardiff export` of its checkpoint "
            "writes a source that does.",
            stacklevel=4,
        )
    usual = presets.published_sampling() if isinstance(dit, PublishedDiT) else {}
    names = list(classes) if len(classes) == dit.classes else []
    given = {"arvae": load_arvae(arvae)} if arvae else {}
    return usual | {"classes": names} | found | given


def published_files(repo: str, dataset: str, revision: str = "main") -> dict[str, str]:
    """Find the published weights of sky, taichi, ucf101 or ffs in a repository, user/repo.

    Returns:
        Sources for `load_arvae` and `load_dit`, under "arvae" and "dit".
    """
    wanted = presets.preset(dataset)
    commit, names = list_files(HubPath(repo=repo, revision=revision))
    place = HubPath(repo=repo, revision=commit)
    kinds = {
        name: presets.kinds_by_entries(entry_names(place / name))
        if name.lower().endswith(".safetensors")
        else presets.kinds_by_name(name)
        for name in names
        if any(word in name.lower() for word in wanted.words)
    }
    found = {kind: presets.select_file(kinds, kind, wanted) for kind in KINDS}
    if not any(found.values()):
        listed = ", ".join(names) or "nothing"
        where = f"The cached part of {repo}" if constants.HF_HUB_OFFLINE else repo
        raise ValueError(f"{where} holds no published weights for {dataset}; it holds: {listed}.")
    for paths in found.values():
        if len(paths) > 1:
            listed = ", ".join(str(place / path) for path in paths)
            raise ValueError(
                f"There are several published files for {dataset}; name one of them: {listed}."
            )
    return {kind: str(place / paths[0]) for kind, paths in found.items() if paths}
