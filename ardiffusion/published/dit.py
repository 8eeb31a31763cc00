"""The published transformer's weights: names, schedule, and what shapes tell of its kind."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ardiffusion.diffusion.schedule import NoiseSchedule

NETWORK = "diffusion_model.model."
POSITION = f"{NETWORK}pos_embed"
FREQUENCIES = re.compile(r"diffusion_model\.model\.(blocks\.\d+\.attn\.)?rotary_emb\.freqs")
BLOCK = re.compile(r"diffusion_model\.model\.blocks\.(\d+)\.")

BETAS, ALPHAS_CUMPROD = "diffusion_model.betas", "diffusion_model.alphas_cumprod"
# Everything of the schedule that a file may hold; logvar is zero, the others follow from betas.
SCHEDULE_NAMES = frozenset(
    f"diffusion_model.{name}"
    for name in """
    betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod
    log_one_minus_alphas_cumprod sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod
    posterior_variance posterior_log_variance_clipped posterior_mean_coef1 posterior_mean_coef2
    logvar
    """.split()
)

# What our names begin with, or hold inside where they begin with a dot, and the published words.
WORDS = {
    "embed_context.": "c_embedder.",
    "embed.": "x_embedder.",
    "time.hidden.": "t_embedder.mlp.0.",
    "time.out.": "t_embedder.mlp.2.",
    "position": "pos_embed",
    "out.": "final_layer.1.",
    ".modulation.": ".adaLN_modulation.1.",
    ".attention.out.": ".attn.proj.",
    ".attention.": ".attn.",
    ".mlp.0.": ".mlp.fc1.",
    ".mlp.2.": ".mlp.fc2.",
}


def published_name(name: str, classes: int) -> str:
    """Return what an entry of PublishedDiT is called in the published files."""
    if name == "condition.table":
        return "class_emb" if classes > 0 else "context_emb"
    for ours, theirs in WORDS.items():
        if name.startswith(ours) or (ours.startswith(".") and ours in name):
            return NETWORK + name.replace(ours, theirs, 1)
    raise AssertionError(f"{name} is in no table")


def split_dit(
    state: Mapping[str, Tensor], heads: int | None, tokens: int, frames: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the arguments of the PublishedDiT that a file's tensors belong to, and its weights.

    `state` is without the tokenizer; `heads` is asked where the file does not tell.
    """
    weights = {name: value for name, value in state.items() if name not in SCHEDULE_NAMES}
    frequencies = [weights.pop(name) for name in state if FREQUENCIES.fullmatch(name)]
    sizes = read_sizes(weights)
    kinds = {
        "rotary": has_rotary(weights, frequencies),
        "qk_norm": any(".q_norm." in name for name in weights),
    }
    heads = count_heads(weights, frequencies, width=sizes["width"], given=heads)
    if POSITION in weights:
        weights[POSITION] = positions(weights[POSITION], tokens=tokens, frames=frames)
    return {"heads": heads, "tokens": tokens, "frames": frames, **kinds, **sizes}, weights


def read_sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Read the sizes that shapes tell, by the names of PublishedDiT's arguments."""
    embedder = f"{NETWORK}x_embedder.weight"
    if embedder not in state:
        raise ValueError(f"The published transformer lacks {embedder}; the file is not whole.")
    found = [name for name in ("context_emb", "class_emb") if name in state]
    if len(found) != 1:
        raise ValueError(
            "The published transformer needs either context_emb (no classes) or class_emb; the "
            f"file holds {' and '.join(found) or 'neither'}."
        )
    width, channels = state[embedder].shape
    *classes, context, context_width = state[found[0]].shape
    blocks = [match for match in map(BLOCK.match, state) if match]
    return {
        "width": width,
        "channels": channels,
        "depth": 1 + max((int(block.group(1)) for block in blocks), default=-1),
        "classes": classes[0] - 1 if classes else 0,
        "context": context,
        "context_width": context_width,
    }


def has_rotary(state: Mapping[str, Tensor], frequencies: list[Tensor]) -> bool:
    """Say whether positions rotate queries and keys, and check by which angles."""
    if (POSITION in state) == bool(frequencies):
        raise ValueError(
            f"The published transformer needs either {POSITION} or rotary_emb.freqs; the file "
            f"holds {'both' if frequencies else 'neither'}."
        )
    for found in frequencies:
        size = len(found)
        expected = 1e4 ** -(torch.arange(size, dtype=torch.float64) / size)
        if not torch.allclose(found.double().cpu(), expected, rtol=1e-5):
            raise ValueError("The file's rotary_emb.freqs are not 10000^(-2 i / d).")
    return bool(frequencies)


def count_heads(
    state: Mapping[str, Tensor], frequencies: list[Tensor], width: int, given: int | None
) -> int:
    """Return the number of heads that shapes tell, or the given one."""
    norm = state.get(f"{NETWORK}blocks.0.attn.q_norm.weight")
    told = [width // len(norm)] if norm is not None else []
    told += [width // (2 * len(f)) for f in frequencies[:1]]
    if told and given not in (None, told[0]):
        raise ValueError(f"The file's transformer has {told[0]} heads, not {given}.")
    if not told and given is None and width != 1152:
        raise ValueError(
            f"The file does not tell how many heads its transformer of width {width} has; give "
            "heads."
        )
    return told[0] if told else given or 16


def positions(table: Tensor, tokens: int, frames: int) -> Tensor:
    """Check the length of the position table (1, F L, D) and return it as (F L, D)."""
    if table.ndim != 3 or table.shape[1] != frames * tokens:
        raise ValueError(
            f"The file's {POSITION} of shape {list(table.shape)} is not made for {frames} frames "
            f"of {tokens} tokens; give frames and tokens."
        )
    return rearrange(table, "1 p d -> p d")


def published_schedule(state: Mapping[str, Tensor]) -> NoiseSchedule | None:
    """Return the schedule that a file's transformer was trained with, or None if it says none."""
    if BETAS not in state:
        return None
    betas = state[BETAS].double().cpu()
    schedule = NoiseSchedule(
        beta_start=round(betas[0].item(), 9),
        beta_end=round(betas[-1].item(), 9),
        timesteps=len(betas),
    )
    tables = [torch.cumprod(1 - betas, dim=0)]
    if ALPHAS_CUMPROD in state:
        tables.append(state[ALPHAS_CUMPROD].double().cpu())
    expected = schedule.alphas_cumprod
    if any(
        table.shape != expected.shape or not torch.allclose(table, expected, rtol=1e-3)
        for table in tables
    ):
        raise ValueError(
            f"The file's {BETAS} and {ALPHAS_CUMPROD} are not those of a schedule that is linear "
            f"in the square root of beta from {schedule.beta_start} to {schedule.beta_end}."
        )
    return schedule
