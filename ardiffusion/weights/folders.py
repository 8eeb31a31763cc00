"""A model as a folder: config.json, model.safetensors and README.md, the model card.

The weights file carries the configuration too, so that it can also be loaded by itself. The card
says what a model is, learned from, and can do, as the Hub shows it.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData
from torch import Tensor, nn

from ardiffusion.files import atomic_write, naming, write_tensors
from ardiffusion.nn.autoencoder import Autoencoder
from ardiffusion.weights.description import PARTS, describe
from ardiffusion.weights.download import parse_hub_path, readable_hub_errors, unwritable

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
METADATA_KEY = "ardiffusion"  # the configuration's name among the notes of a weights file
TAGS = ["video-generation", "ar-diffusion"]
GENERATOR_CODE = """from ardiffusion.generator import Generator
generator = Generator.from_pretrained("hf://USER/REPOSITORY")
video = generator.generate(seeds=[0], frames=128)  # uint8 (1, 128, 3, H, W)"""
NETWORK_CODE = """from ardiffusion.hub import {loader}
model = {loader}("hf://USER/REPOSITORY")"""


@dataclass(frozen=True)
class Card:
    """What a model card says beside the model's sizes."""

    summary: str = "A model of AR-Diffusion (Sun et al., CVPR 2025)."
    data: str = "not stated"  # what it was trained on
    license: str = "unknown"  # by the Hub's name, such as apache-2.0
    steps: int | None = None  # of the optimiser
    metrics: Mapping[str, float] = field(default_factory=dict)  # results by name
    scores: Sequence[tuple[str, str, str]] = ()  # name, value, and how it was measured


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
    target = parse_hub_path(f"hf://{repository.removeprefix('hf://')}")
    with tempfile.TemporaryDirectory() as folder, readable_hub_errors(target, unwritable):
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


def parse_config(config: str | bytes) -> dict[str, Any]:
    """Read the text of a configuration, which must be a JSON object."""
    try:
        description = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The file is no JSON ({error}).") from error
    if not isinstance(description, dict):
        raise ValueError("The file does not describe a network: it lacks class or arguments.")
    return description


def read_config(path: Path) -> dict[str, Any]:
    with naming(path):
        return parse_config(path.read_bytes())


def render_card(description: dict[str, Any], parameters: int, card: Card) -> str:
    """Write the card of a described model as Markdown behind the Hub's header."""
    name = str(description["class"])
    first = issubclass(PARTS.get(name, object), Autoencoder)
    loader = "load_arvae" if first else "load_dit"
    rows = {
        "data": card.data,
        "optimiser steps": "not stated" if card.steps is None else f"{card.steps:,}",
        **{name: f"{value:g}" for name, value in card.metrics.items()},
        "parameters": f"{parameters:,}",
        **flatten(description),
    }
    # One line a cell: what a user writes must not break out of its row.
    cells = [
        (name, " ".join(str(value).split()).replace("|", "\\|")) for name, value in rows.items()
    ]
    return str(
        ModelCard.from_template(
            ModelCardData(license=card.license, library_name="ardiffusion", tags=TAGS),
            template_path=str(Path(__file__).with_name("card.md")),
            name=name,
            summary=card.summary,
            code=GENERATOR_CODE if name == "Generator" else NETWORK_CODE.format(loader=loader),
            rows=cells,
            scores=card.scores,
        )
    )


def flatten(description: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Return a described part's arguments by name, those of a generator's parts as dit.width."""
    found: dict[str, object] = dict(description.get("arguments", {}))
    for name, part in description.items():
        if isinstance(part, Mapping) and name != "arguments":
            found[name] = part.get("class", ", ".join(f"{k} {v}" for k, v in part.items()))
            found |= {f"{name}.{key}": value for key, value in flatten(part).items()}
        elif name not in ("class", "arguments"):
            found[name] = ", ".join(map(str, part)) if isinstance(part, list) else part
    return {f"{prefix}{name}": value for name, value in found.items()}
