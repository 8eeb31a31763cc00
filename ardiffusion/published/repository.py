"""Which files of a repository hold the published weights of a data set.

Their folders are not laid down anywhere, so files are recognised by a word of the data set in
their paths and by the names of the tensors in their headers.
"""

import re

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from safetensors import safe_open

from ardiffusion.published.presets import preset
from ardiffusion.weights.download import HubPath, list_files
from ardiffusion.weights.hub_errors import readable_hub_errors
from ardiffusion.weights.tensor_files import PICKLES

# What else a training run leaves behind, beside weights.
OTHERS = ("optimizer", "scheduler", "scaler", "random", "training_args")


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
    words = preset(dataset).words
    commit, names = list_files(HubPath(repo=repo, revision=revision))
    files = [
        HubPath(repo=repo, path=name, revision=commit)
        for name in names
        if any(word in name.lower() for word in words)
    ]
    kinds = {file: kinds_of(file) for file in files}
    found = {kind: [f for f in files if kind in kinds[f]] for kind in ("arvae", "dit")}
    if not any(found.values()):
        listed = ", ".join(names) or "nothing"
        place = f"The cached part of {repo}" if constants.HF_HUB_OFFLINE else repo
        raise ValueError(f"{place} holds no published weights for {dataset}; it holds: {listed}.")
    return {
        kind: str(choose(fitting, kinds=kinds, dataset=dataset))
        for kind, fitting in found.items()
        if fitting
    }


def kinds_of(file: HubPath) -> frozenset[str]:
    """Say which networks a file holds, by its header, or by its name where it has none."""
    name = file.path.lower()
    if name.endswith(".safetensors"):
        entries = {entry.removeprefix("module.") for entry in entry_names(file)}
        stems = {entry.split(".")[0] for entry in entries}
        tokenizer = {entry.removeprefix("vae.").split(".")[0] for entry in entries}
        found = {"dit": "diffusion_model" in stems, "arvae": {"encoder", "decoder"} <= tokenizer}
        return frozenset(kind for kind, holds in found.items() if holds)
    if not name.endswith(PICKLES) or any(word in name for word in OTHERS):
        return frozenset()
    return frozenset({"dit"} if re.search(r"diff|dit", name) else {"arvae"})


def entry_names(file: HubPath) -> list[str]:
    """Return the names of the tensors in a safetensors file, reading no more than its header."""
    cached = try_to_load_from_cache(file.repo, file.path, revision=file.revision)
    if isinstance(cached, str):
        with safe_open(cached, framework="pt") as tensors:
            return list(tensors.keys())
    with readable_hub_errors(file):
        header = HfApi().parse_safetensors_file_metadata(
            file.repo, file.path, revision=file.revision
        )
    return list(header.tensors)


def choose(files: list[HubPath], kinds: dict[HubPath, frozenset[str]], dataset: str) -> HubPath:
    """Choose the file of one network alone, with classes if it may, in its latest checkpoint."""
    alone = [file for file in files if len(kinds[file]) == 1] or files
    if preset(dataset).classes:
        alone = [file for file in alone if "class" in file.path.lower()] or alone
    steps = {file: re.findall(r"checkpoint[-_](\d+)", file.path) for file in alone}
    latest = max(int((found or ["0"])[-1]) for found in steps.values())
    best = [file for file, found in steps.items() if int((found or ["0"])[-1]) == latest]
    if len(best) > 1:
        raise ValueError(
            f"There are several published files for {dataset}; name one of them: "
            f"{', '.join(map(str, best))}."
        )
    return best[0]
