"""Published weights as our networks: which networks a file holds, and a file converted for good.

    python -m ardiffusion.convert SRC DST

writes DST as `save_pretrained` does, or DST/arvae and DST/dit where SRC holds both.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from torch import Tensor, nn

from ardiffusion.published.arvae import convert_arvae, from_titok, holds_arvae, holds_titok
from ardiffusion.published.dit import convert_dit, holds_dit
from ardiffusion.published.schedule import published_schedule
from ardiffusion.weights.card import Card
from ardiffusion.weights.folders import save_pretrained
from ardiffusion.weights.tensor_files import PICKLES, read_pickle, read_safetensors

TOKENIZER = "vae."  # before the tokenizer's names in a file of both stages


def from_published(
    state_dict: Mapping[str, Tensor],
    heads: int | None = None,
    tokens: int = 32,
    frames: int = 16,
    causal: bool = True,
    open_context: bool = True,
) -> dict[str, nn.Module]:
    """Build the networks that a published file holds, around the file's own tensors.

    Args:
        state_dict: The file's tensors.
        heads: Number of attention heads, where the file does not tell: of the transformer, or of
            a tokenizer that comes alone.
        tokens: Tokens per frame.
        frames: Frames of the window.
        causal: Whether a frame of the transformer sees no later frame.
        open_context: Whether the transformer's context tokens see the frames.

    Returns:
        "arvae", "dit" or both.

    Raises:
        ValueError: If there is neither, or what there is does not fit; it names each fault.
    """
    state = {name.removeprefix("module."): value for name, value in state_dict.items()}
    nested = {n.removeprefix(TOKENIZER): v for n, v in state.items() if n.startswith(TOKENIZER)}
    rest = {name: value for name, value in state.items() if not name.startswith(TOKENIZER)}
    tokenizer = nested or (rest if holds_arvae(rest) else {})
    networks: dict[str, nn.Module] = {}
    if holds_titok(tokenizer):
        networks["arvae"] = from_titok(tokenizer, tokens=tokens)
    elif tokenizer:
        own = None if nested else heads
        networks["arvae"] = convert_arvae(tokenizer, heads=own, frames=frames)
    if holds_dit(rest):
        networks["dit"] = convert_dit(
            rest,
            heads=heads,
            tokens=tokens,
            frames=frames,
            causal=causal,
            open_context=open_context,
        )
    elif nested and rest:
        raise ValueError(
            f"The file has in surplus beside its tokenizer: {', '.join(sorted(rest))}."
        )
    if not networks:
        raise ValueError(
            "The file holds neither a published tokenizer nor a published transformer: its "
            f"entries are {', '.join(list(state)[:3])} and so on."
        )
    return networks


def convert(
    src: str,
    dst: str,
    heads: int | None = None,
    tokens: int = 32,
    frames: int = 16,
    causal: bool = True,
    open_context: bool = True,
) -> dict[str, Any]:
    """Convert a published file to a folder that load_arvae and load_dit read.

    Args:
        src: The published file, .safetensors or of torch.save.
        dst: The folder to write; DST/arvae and DST/dit where the file holds both stages.
        heads: Number of attention heads, where the file does not tell: of the transformer, or of
            a tokenizer that comes alone.
        tokens: Tokens per frame.
        frames: Frames of the window.
        causal: Whether a frame of the transformer sees no later frame.
        open_context: Whether the transformer's context tokens see the frames.

    Returns:
        The folder of each network, and the first and last beta of the noise schedule.
    """
    path = Path(src)
    state = read_pickle(path) if path.suffix in PICKLES else read_safetensors(path)[0]
    networks = from_published(
        state,
        heads=heads,
        tokens=tokens,
        frames=frames,
        causal=causal,
        open_context=open_context,
    )
    done: dict[str, Any] = {}
    for kind, network in networks.items():
        folder = Path(dst, kind) if len(networks) > 1 else Path(dst)
        summary = f"Weights published with AR-Diffusion (CVPR 2025), converted from {path.name}."
        save_pretrained(network, folder, card=Card(summary=summary))
        done[kind] = str(folder)
    schedule = published_schedule(state)
    if schedule is not None:
        done |= {"beta_start": schedule.beta_start, "beta_end": schedule.beta_end}
    return done


def main(args: list[str] | None = None) -> None:
    """Run the command line; its output is one JSON object."""
    try:
        result = auto_cli(convert, args=args, as_positional=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
