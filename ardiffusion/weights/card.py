"""The model card: what a trained network is, learned from, and can do, as the Hub shows it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from ardiffusion.weights.description import describe

TAGS = ["video-generation", "ar-diffusion"]
LOADERS = dict.fromkeys(("ARVAE", "PublishedARVAE", "GridVAE"), "load_arvae")

TEMPLATE = """---
library_name: ardiffusion
license: {license}
tags: {tags}
---

# {name}

{summary}

    from ardiffusion.hub import {loader}
    model = {loader}("hf://USER/REPOSITORY")

| | |
|---|---|
{rows}
"""


@dataclass(frozen=True)
class Card:
    """What a model card says beside the network's sizes.

    Attributes:
        summary: A sentence or more on the model.
        data: What it was trained on.
        license: Its licence by the Hub's name, such as apache-2.0.
        steps: Number of optimiser steps.
        metrics: Results by name.
    """

    summary: str = "A network of AR-Diffusion (Sun et al., CVPR 2025)."
    data: str = "not stated"
    license: str = "unknown"
    steps: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


def render_card(model: nn.Module, card: Card) -> str:
    """Write the card of a model as Markdown behind the Hub's header."""
    description = describe(model)
    parameters = sum(p.numel() for p in model.parameters())
    rows = {
        "data": card.data,
        "optimiser steps": "not stated" if card.steps is None else f"{card.steps:,}",
        **{name: f"{value:g}" for name, value in card.metrics.items()},
        "parameters": f"{parameters:,}",
        **description["arguments"],
    }
    return TEMPLATE.format(
        license=json.dumps(card.license),
        tags=json.dumps(TAGS),
        name=description["class"],
        summary=card.summary,
        loader=LOADERS.get(description["class"], "load_dit"),
        rows="\n".join(f"| {name} | {value} |" for name, value in rows.items()),
    )
