"""A model as a folder: config.json, model.safetensors and a README.md that describes it.

The weights file carries the configuration too, so that it can also be loaded by itself.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from torch import Tensor, nn

from ardiffusion.files import atomic_write, write_tensors
from ardiffusion.weights.card import Card, render_card
from ardiffusion.weights.description import describe
from ardiffusion.weights.download import parse_hub_path, readable_hub_errors

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
METADATA_KEY = "ardiffusion"  # the configuration's name among the notes of a weights file


def write_model(
    folder: str | Path,
    description: dict[str, Any],
    weights: Mapping[str, Tensor],
    card: Card | None = None,
) -> None:
    """Write a model and what it is to be built again from, in the place of another one."""
    config = json.dumps(description, indent=2)
    parameters = sum(value.numel() for value in weights.values())
    text = render_card(description, parameters=parameters, card=card or Card())
    write_tensors(Path(folder, WEIGHTS), weights, notes={METADATA_KEY: config})
    for name, content in ((CONFIG, f"{config}\n"), (CARD, text)):
        with atomic_write(Path(folder, name)) as partial:
            partial.write_text(content, encoding="utf-8")


def save_pretrained(model: nn.Module, folder: str | Path, card: Card | None = None) -> None:
    """Write a network; what stands in the folder is replaced file by file."""
    write_model(folder, describe(model), weights=model.state_dict(), card=card)


def push_to_hub(
    model: nn.Module, repository: str, card: Card | None = None, private: bool = False
) -> str:
    """Upload a network as `save_pretrained` writes it, creating the repository if need be.

    Args:
        model: One of our networks.
        repository: Where to, user/repo[/folder], with or without hf://.
        card: What its model card says beside its sizes.
        private: Whether a new repository is private.
    """
    return upload(
        lambda folder: save_pretrained(model, folder, card=card),
        repository=repository,
        message=f"Upload {type(model).__name__}",
        private=private,
    )


def upload(
    write: Callable[[str], None], repository: str, message: str, private: bool = False
) -> str:
    """Upload what a function writes into a folder; see `push_to_hub`."""
    target = parse_hub_path(f"hf://{repository.removeprefix('hf://')}")
    with tempfile.TemporaryDirectory() as folder, readable_hub_errors(target):
        write(folder)
        api = HfApi()
        api.create_repo(target.repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=target.repo,
            folder_path=folder,
            path_in_repo=target.path or None,
            revision=target.revision,
            commit_message=message,
        )
    return str(target)


def parse_config(config: str, source: str) -> dict[str, Any]:
    """Read the text of a configuration, which must be a JSON object."""
    try:
        description = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is no JSON ({error}).") from error
    if not isinstance(description, dict):
        raise ValueError(f"{source} does not describe a network: it lacks class or arguments.")
    return description


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.json."""
    try:
        return parse_config(path.read_text(encoding="utf-8"), source=str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}).") from error
