"""Which files of a repository hold the published weights of a data set.

Their folders are not laid down anywhere, so files are recognised by a word of the data set in
their paths and by the names of the tensors in their headers.
"""

import re
from collections.abc import Iterable, Mapping

from ardiffusion.published.presets import Preset

PICKLED = (".bin", ".ckpt", ".pt", ".pth")
# What else a training run leaves behind, beside weights.
OTHERS = ("optimizer", "scheduler", "scaler", "random", "training_args")


def of_data_set(paths: Iterable[str], preset: Preset) -> list[str]:
    """Choose the files whose paths name a data set."""
    return [path for path in paths if any(word in path.lower() for word in preset.words)]


def kinds_by_entries(entries: Iterable[str]) -> frozenset[str]:
    """Say which networks a file holds by the names of its tensors."""
    names = {entry.removeprefix("module.") for entry in entries}
    stems = {name.split(".")[0] for name in names}
    tokenizer = {name.removeprefix("vae.").split(".")[0] for name in names}
    found = {"dit": "diffusion_model" in stems, "arvae": {"encoder", "decoder"} <= tokenizer}
    return frozenset(kind for kind, holds in found.items() if holds)


def kinds_by_name(path: str) -> frozenset[str]:
    """Say which network a file without a header holds by its name."""
    name = path.lower()
    if not name.endswith(PICKLED) or any(word in name for word in OTHERS):
        return frozenset()
    return frozenset({"dit"} if re.search(r"diff|dit", name) else {"arvae"})


def select_file(kinds: Mapping[str, frozenset[str]], kind: str, preset: Preset) -> list[str]:
    """Choose files of one network alone, with classes if they may, in their latest checkpoint.

    Args:
        kinds: Which networks each file holds, by its path.
        kind: "arvae" or "dit".
        preset: The data set.

    Returns:
        The path; several if only the user can choose between them, none if there is none.
    """
    files = [path for path, held in kinds.items() if kind in held]
    files = [path for path in files if len(kinds[path]) == 1] or files
    if preset.classes:
        files = [path for path in files if "class" in path.lower()] or files
    steps = {path: re.findall(r"checkpoint[-_](\d+)", path) for path in files}
    latest = max((int((found or ["0"])[-1]) for found in steps.values()), default=0)
    return [path for path, found in steps.items() if int((found or ["0"])[-1]) == latest]
