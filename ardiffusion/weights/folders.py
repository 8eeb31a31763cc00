"""A model as a folder: config.json, model.safetensors and a README.md that describes it.

The weights file carries the configuration too, so that it can also be loaded by itself.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ardiffusion.weights.card import Card, render_card
from ardiffusion.weights.description import build, describe
from ardiffusion.weights.strict import assign_weights
from ardiffusion.weights.tensor_files import read_safetensors

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
NOTE = "ardiffusion"  # the configuration's name among the notes of a weights file


def save_pretrained(model: nn.Module, folder: str | Path, card: Card | None = None) -> None:
    """Write a model; what stands in the folder is replaced file by file.

    Args:
        model: One of our networks.
        folder: Where to.
        card: What its model card says beside its sizes.
    """
    config = json.dumps(describe(model), indent=2)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = render_card(model, card or Card())
    replace(Path(folder, WEIGHTS), lambda path: save_file(weights, path, metadata={NOTE: config}))
    replace(Path(folder, CONFIG), lambda path: path.write_text(f"{config}\n"))
    replace(Path(folder, CARD), lambda path: path.write_text(text))


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name and move it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors makes files that nobody else may read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_pretrained(folder: Path) -> nn.Module:
    """Load what `save_pretrained` wrote, around the file's own memory."""
    path = folder / CONFIG
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} holds {CONFIG} but no {WEIGHTS}.")
    tensors, _ = read_safetensors(folder / WEIGHTS)
    return assemble(path.read_text(), tensors=tensors, source=str(path))


def assemble(config: str, tensors: dict[str, Tensor], source: str) -> nn.Module:
    """Build the network that a configuration describes around given tensors.

    Raises:
        ValueError: If the configuration does not describe one of our networks, or another one.
    """
    try:
        description = json.loads(config)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source} is no JSON ({error}).") from error
    network = build_empty(description, source=source)
    names = {name: name for name in network.state_dict()}
    return assign_weights(network, tensors, names=names, source=f"The weights of {source}")


def build_empty(description: Any, source: str) -> nn.Module:  # noqa: ANN401 read from a file
    """Build a described network without memory for its weights."""
    if not isinstance(description, dict) or not {"class", "arguments"} <= description.keys():
        raise ValueError(f"{source} does not describe a network: it lacks class or arguments.")
    try:
        with torch.device("meta"):
            return build(description)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{source} cannot be built: {error}") from error
