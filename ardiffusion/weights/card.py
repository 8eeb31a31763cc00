"""The model card: what a trained model is, learned from, and can do, as the Hub shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ardiffusion.nn.autoencoder import Autoencoder
from ardiffusion.weights.description import PARTS

TAGS = ["video-generation", "ar-diffusion"]
TEMPLATE = """---
{{ card_data }}
---

# {{ name }}

{{ summary }}

    {{ code | indent(4) }}

| | |
|---|---|
{% for name, value in rows %}| {{ name }} | {{ value }} |
{% endfor %}
{%- if scores %}
| score | value | measured |
|---|---|---|
{% for name, value, how in scores %}| {{ name }} | {{ value }} | {{ how }} |
{% endfor %}
{%- endif %}"""
GENERATOR_CODE = """from ardiffusion.generator import Generator
generator = Generator.from_pretrained("hf://USER/REPOSITORY")
video = generator.generate(seeds=[0], frames=128)  # uint8 (1, 128, 3, H, W)"""
NETWORK_CODE = """from ardiffusion.hub import {loader}
model = {loader}("hf://USER/REPOSITORY")"""


@dataclass(frozen=True)
class Card:
    """What a model card says beside the model's sizes.

    Attributes:
        summary: A sentence or more on the model.
        data: What it was trained on.
        license: Its licence by the Hub's name, such as apache-2.0.
        steps: Number of optimiser steps.
        metrics: Results by name.
        scores: Results with how they were measured: name, value, conditions.
    """

    summary: str = "A model of AR-Diffusion (Sun et al., CVPR 2025)."
    data: str = "not stated"
    license: str = "unknown"
    steps: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    scores: Sequence[tuple[str, str, str]] = ()


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
            template_str=TEMPLATE,
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
