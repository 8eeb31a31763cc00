"""A shareable model of any source: weights, configuration and a model card, in a folder or hub."""

from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from ardiffusion.convert import from_published
from ardiffusion.files import naming, read_text
from ardiffusion.generator import Generator
from ardiffusion.hub import complete
from ardiffusion.metrics.score import Score
from ardiffusion.sources import BUILT, KINDS, Parts, load_source, published
from ardiffusion.tools.options import check_named
from ardiffusion.weights.checkpoint import read_checkpoint
from ardiffusion.weights.description import describe
from ardiffusion.weights.download import fetch, parse_hub_path
from ardiffusion.weights.folders import Card, upload, write_model
from ardiffusion.weights.profiles import average
from ardiffusion.weights.tensor_files import read_tensors

# What the shapes of a published file cannot tell, as it usually is.
TOLD = {n: p.default for n, p in signature(from_published).parameters.items() if n != "state_dict"}


def export(
    source: str,
    target: str,
    arvae: str | None = None,
    summary: str = Card.summary,
    data: str | None = None,
    license: str = Card.license,
    scores: list[str] | None = None,
    private: bool = False,
    ema_length: float | None = None,
    heads: int | None = None,
    tokens: int = 32,
    frames: int = 16,
    causal: bool = True,
    open_context: bool = True,
) -> dict[str, Any]:
    """Write a model to share: config.json, model.safetensors and README.md, its model card.

    A source of both stages, or of stage 2 with --arvae, becomes a whole generator, which
    `ardiff-dit predict --ckpt_path` takes; one of a single network becomes that network.

    Args:
        source: A checkpoint, folder, file of weights, published ones too, or hf://user/repo.
        target: A folder, or hf://user/repo to upload to.
        arvae: Where to take the auto-encoder from, where the source has none or another is wanted.
        summary: A sentence or more on the model, for its card.
        data: What it was trained on, for its card; by default the data folder's name in the
            config.yaml of the run.
        license: Its licence by the Hub's name, such as apache-2.0.
        scores: Files of score records for its card; by default those of the run.
        private: Whether a new repository on the Hub is private.
        ema_length: Relative length of the average of weights to export, made of those that EMA's
            lengths left in this checkpoint and in earlier ones beside it; by default EMA's own.
        heads: Number of attention heads of a published file that does not tell.
        tokens: Tokens per frame of a published file.
        frames: Frames of the window of a published file.
        causal: Whether a frame of a published transformer sees no later frame.
        open_context: Whether a published transformer's context tokens see the frames.
    """
    check_named("TARGET", target)
    told = {"heads": heads, "tokens": tokens, "frames": frames}
    told |= {"causal": causal, "open_context": open_context}
    found = load_source(source) if told == TOLD else load_told(source, told)
    if ema_length is not None:
        for name, weight in average(source, ema_length).items():
            kind, _, own = name.partition(".")
            found[kind].get_parameter(own).data = weight.float()
    card = make_card(source, summary=summary, data=data, license=license, scores=scores)
    if "dit" in found and (arvae or "arvae" in found):
        model: Any = Generator(**complete(found, source, arvae=arvae))
        description = model.describe()
    else:
        model = next((found[kind] for kind in KINDS if kind in found), None)
        if model is None:
            raise ValueError(f"{source} holds no network: name a model of ours as SOURCE.")
        description = describe(model) | {n: describe(found[n]) for n in BUILT if n in found}
    weights = model.state_dict()

    def write(folder: str) -> None:
        write_model(folder, description, weights=weights, card=card)

    if target.startswith("hf://"):
        message = f"Upload {description['class']}"
        target = upload(write, repository=target, message=message, private=private)
    else:
        write(target)
    size = sum(value.numel() for value in weights.values())
    return {"target": target, "class": description["class"], "parameters": size}


def load_told(source: str, told: dict[str, Any]) -> Parts:
    there = source.startswith("hf://")
    path = fetch(parse_hub_path(source)) if there else Path(source)
    tensors, _ = read_tensors(path)
    with naming(source):
        return published(tensors, **told)


def make_card(
    source: str, summary: str, data: str | None, license: str, scores: list[str] | None
) -> Card:
    """Say on a card what the run of a checkpoint left beside it, and what the user adds."""
    path = Path(source)
    run = path.parent.parent  # of runs/dit/checkpoints/last.ckpt
    steps = None
    if path.suffix == ".ckpt" and path.is_file():
        steps = read_checkpoint(path).get("global_step")
        scores = list(map(str, sorted(run.glob("scores/*.json")))) if scores is None else scores
        data = data or data_of(run / "config.yaml")
    records = [Score.load(score) for score in scores or ()]
    return Card(
        summary=summary,
        data=data or Card.data,
        license=license,
        steps=steps if isinstance(steps, int) else None,
        scores=[(r.metric, f"{r.value:.4g}", r.line().split(", ", 1)[1]) for r in records],
    )


def data_of(config: Path) -> str | None:
    try:
        found = yaml.safe_load(read_text(config))
        return Path(found["data"]["root"]).name
    except (OSError, ValueError, RecursionError, yaml.YAMLError, LookupError, TypeError):
        return None
