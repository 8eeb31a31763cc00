"""The published tokenizers' weights, and TiTok's: their names, and what shapes tell of them."""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

QUERIES = "latent_tokens"  # by which a tokenizer is known, published or TiTok's
# What to replace in our names, one rule after the other, to get the published ones.
RULES = (
    (r"^encoder\.queries$", QUERIES),
    (r"\.(query|latent)_positions$", ".latent_token_positional_embedding"),
    (r"\.positions$", ".positional_embedding"),
    (r"\.class_token$", ".class_embedding"),
    (r"^encoder\.patches\.", "encoder.patch_embed."),
    (r"^encoder\.head\.", "encoder.conv_out."),
    (r"^decoder\.embed\.", "decoder.decoder_embed."),
    (r"^(encoder|decoder)\.norm_in\.", r"\1.ln_pre."),
    (r"^(encoder|decoder)\.norm_out\.", r"\1.ln_post."),
    (r"^(encoder|decoder)\.blocks\.(\d+)\.norm", r"\1.blocks.\2.ln_"),
    (r"^(encoder|decoder)\.blocks\.", r"\1.transformer."),
    (r"^decoder\.temporal\.(\d+)\.(fine|coarse)\.", r"decoder.\2_temporal_blocks.\1."),
    (r"(fine_temporal_blocks\.\d+)\.norm\.", r"\1.ln_1."),
    (r"(coarse_temporal_blocks\.\d+)\.norm_", r"\1.ln_"),
    (r"\.attention\.qkv\.", ".attn.in_proj_"),
    (r"\.attention\.out\.", ".attn.out_proj."),
    (r"\.mlp\.0\.", ".mlp.c_fc."),
    (r"\.mlp\.2\.", ".mlp.c_proj."),
    (r"^lookup\.logits\.", "decoder.ffn."),
    (r"^lookup\.mix\.", "pixel_quantize_conv."),
    (r"^pixels\.", "pixel_decoder."),
    (r"^pixel_decoder\.middle\.", "pixel_decoder.mid."),
    (r"^pixel_decoder\.levels\.(\d+)\.blocks\.", r"pixel_decoder.up.\1.block."),
    (r"^pixel_decoder\.levels\.(\d+)\.upsample\.", r"pixel_decoder.up.\1.upsample_conv."),
    (r"\.shortcut\.", ".nin_shortcut."),
)
BLOCK = re.compile(r"encoder\.transformer\.(\d+)\.")
TEMPORAL = re.compile(r"decoder\.(fine|coarse)_temporal_blocks\.")

# Linear layers of ours that are 1x1 convolutions in the files.
POINTWISE = tuple(
    f"{name}.weight"
    for name in ("encoder.conv_out", "decoder.ffn.0", "decoder.ffn.2", "pixel_quantize_conv")
)

VECTORS = "quantize.embedding.weight"  # TiTok's discrete latents, which Gaussian ones replace
EMBEDDINGS = "pixel_quantize.embedding.weight"


def published_name(name: str) -> str:
    """Return what an entry of PublishedARVAE is called in the published files."""
    for ours, theirs in RULES:
        name = re.sub(ours, theirs, name)
    return name


def arvae_arguments(state: Mapping[str, Tensor], heads: int | None, frames: int) -> dict[str, Any]:
    """Return the arguments of the PublishedARVAE that a file's tensors belong to.

    There is a head per 64 channels if not given; frames are those that a frame sees in a decoder
    with temporal blocks.
    """
    sizes = read_sizes(state)
    if heads is None and sizes["width"] % 64:
        raise ValueError(
            f"The file does not tell how many heads its tokenizer of width {sizes['width']} has; "
            "give heads."
        )
    temporal = any(map(TEMPORAL.match, state))
    heads = heads or sizes["width"] // 64
    return {"heads": heads, "temporal": temporal, "window": frames, **sizes}


def read_sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Read the sizes that shapes tell, by the names of PublishedARVAE's arguments."""
    width, _, patch, _ = shape(state, "encoder.patch_embed.weight", dimensions=4)
    places, _ = shape(state, "encoder.positional_embedding", dimensions=2)
    tokens, _ = shape(state, QUERIES, dimensions=2)
    _, channels = shape(state, "decoder.decoder_embed.weight", dimensions=2)
    embedding, codebook, *_ = shape(state, "pixel_quantize_conv.weight", dimensions=4)
    _, pixel_width, *_ = shape(state, "pixel_decoder.conv_out.weight", dimensions=4)
    blocks = [int(match.group(1)) for match in map(BLOCK.match, state) if match]
    return {
        "resolution": patch * math.isqrt(places - 1),
        "patch": patch,
        "width": width,
        "depth": 1 + max(blocks, default=-1),
        "tokens": tokens,
        "channels": channels,
        "pixel_width": pixel_width,
        "codebook": codebook,
        "embedding": embedding,
    }


def shape(state: Mapping[str, Tensor], name: str, dimensions: int) -> torch.Size:
    if name not in state:
        raise ValueError(f"The published tokenizer lacks {name}; the file is not whole.")
    found = state[name].shape
    if len(found) != dimensions:
        raise ValueError(
            f"The published tokenizer's {name} has shape {list(found)}, not {dimensions} "
            "dimensions; the file is of something else."
        )
    return found


def without_units(name: str, value: Tensor) -> Tensor:
    """Drop the dimensions of size one that the files have and we do not."""
    if name in POINTWISE and value.shape[2:] == (1, 1):
        return rearrange(value, "o i 1 1 -> o i")
    if name == "decoder.mask_token" and value.ndim == 3 and len(value) == 1:
        return rearrange(value, "1 one d -> one d")
    return value


def titok_as_published(
    state_dict: Mapping[str, Tensor], tokens: int, channels: int
) -> dict[str, Tensor]:
    """Turn the tensors of TiTok's own tokenizer into those of a published one.

    The head's first and second half of rows become means and log-variances, positions of tokens
    that TiTok lacks are zero, and the soft codebook mixes TiTok's embeddings of pixels.
    """
    state = {name.removeprefix("module."): value for name, value in state_dict.items()}
    embed, positions = "decoder.decoder_embed.weight", "latent_token_positional_embedding"
    counted = (QUERIES, f"encoder.{positions}", f"decoder.{positions}")
    for name in (VECTORS, EMBEDDINGS, embed, *counted):
        shape(state, name, dimensions=2)
    half = shape(state, "encoder.conv_out.weight", dimensions=4)[0] // 2
    if channels > half:
        raise ValueError(f"TiTok's {2 * half} channels are too few for twice {channels}.")
    shape(state, "encoder.conv_out.bias", dimensions=1)
    for name in ("encoder.conv_out.weight", "encoder.conv_out.bias"):
        mean, logvar = state[name][:channels], state[name][half : half + channels]
        state[name] = torch.cat([mean, logvar])
    state[embed] = state[embed][:, :channels].contiguous()
    for name in counted:
        state[name] = pad(state[name], (0, 0, 0, tokens - len(state[name]))).contiguous()
    embeddings = rearrange(state[EMBEDDINGS], "k e -> e k 1 1").contiguous()
    state["pixel_quantize_conv.weight"] = embeddings
    state["pixel_quantize_conv.bias"] = embeddings.new_zeros(len(embeddings))
    return {n: v for n, v in state.items() if n not in (VECTORS, EMBEDDINGS)}
