"""A small tokenizer as published: its entries' shapes, and what it computes, token by token."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH, DEPTH, PATCH, SIDE, TOKENS, CHANNELS, BASE, CODES, MIX = 64, 2, 8, 3, 6, 4, 16, 10, 12
Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]


def affine(name: str, *size: int) -> Shapes:
    return {f"{name}.weight": size, f"{name}.bias": size[:1]}


def attention_shapes(name: str) -> Shapes:
    packed = {f"{name}.in_proj_weight": (3 * WIDTH, WIDTH), f"{name}.in_proj_bias": (3 * WIDTH,)}
    return packed | affine(f"{name}.out_proj", WIDTH, WIDTH)


def transformer_shapes(half: str) -> Shapes:
    shapes: Shapes = {
        f"{half}.class_embedding": (1, WIDTH),
        f"{half}.positional_embedding": (SIDE**2 + 1, WIDTH),
        f"{half}.latent_token_positional_embedding": (TOKENS, WIDTH),
    }
    for norm in ("ln_pre", "ln_post"):
        shapes |= affine(f"{half}.{norm}", WIDTH)
    for i in range(DEPTH):
        block = f"{half}.transformer.{i}"
        shapes |= affine(f"{block}.ln_1", WIDTH) | affine(f"{block}.ln_2", WIDTH)
        shapes |= attention_shapes(f"{block}.attn")
        shapes |= affine(f"{block}.mlp.c_fc", 4 * WIDTH, WIDTH)
        shapes |= affine(f"{block}.mlp.c_proj", WIDTH, 4 * WIDTH)
    return shapes


def residual_shapes(name: str, inputs: int, outputs: int) -> Shapes:
    shapes = affine(f"{name}.norm1", inputs) | affine(f"{name}.norm2", outputs)
    shapes[f"{name}.conv1.weight"] = (outputs, inputs, 3, 3)
    shapes[f"{name}.conv2.weight"] = (outputs, outputs, 3, 3)
    if inputs != outputs:
        shapes[f"{name}.nin_shortcut.weight"] = (outputs, outputs, 1, 1)
    return shapes


def pixel_shapes() -> Shapes:
    widths = [BASE * 2 ** (level // 2) for level in range(4)] + [2 * BASE]
    shapes = affine("pixel_decoder.conv_in", widths[-1], MIX, 3, 3)
    for i in range(2):
        shapes |= residual_shapes(f"pixel_decoder.mid.{i}", widths[-1], widths[-1])
    for level in range(4):
        name, width = f"pixel_decoder.up.{level}", widths[level]
        shapes |= residual_shapes(f"{name}.block.0", widths[level + 1], width)
        shapes |= residual_shapes(f"{name}.block.1", width, width)
        if level > 0:
            shapes |= affine(f"{name}.upsample_conv", width, width, 3, 3)
    shapes |= affine("pixel_decoder.norm_out", BASE)
    return shapes | affine("pixel_decoder.conv_out", 3, BASE, 3, 3)


def tokenizer_shapes(*, temporal: bool = False) -> Shapes:
    shapes = transformer_shapes("encoder") | transformer_shapes("decoder") | pixel_shapes()
    shapes |= {"latent_tokens": (TOKENS, WIDTH), "decoder.mask_token": (1, 1, WIDTH)}
    shapes |= affine("encoder.patch_embed", WIDTH, 3, PATCH, PATCH)
    shapes |= affine("encoder.conv_out", 2 * CHANNELS, WIDTH, 1, 1)
    shapes |= affine("decoder.decoder_embed", WIDTH, CHANNELS)
    shapes |= affine("decoder.ffn.0", 2 * WIDTH, WIDTH, 1, 1)
    shapes |= affine("decoder.ffn.2", CODES, 2 * WIDTH, 1, 1)
    shapes |= affine("pixel_quantize_conv", MIX, CODES, 1, 1)
    for i in range(DEPTH if temporal else 0):
        fine, coarse = (f"decoder.{k}_temporal_blocks.{i}" for k in ("fine", "coarse"))
        shapes |= affine(f"{fine}.ln_1", WIDTH) | attention_shapes(f"{fine}.attn")
        shapes |= attention_shapes(f"{coarse}.attn")
        for norm in ("ln_q", "ln_k", "ln_v"):
            shapes |= affine(f"{coarse}.{norm}", WIDTH)
    return shapes


def norm(w: State, name: str, x: Tensor) -> Tensor:
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(w: State, name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two heads over tokens (N, D), each a contiguous half of the channels."""
    weights, biases = w[f"{name}.in_proj_weight"], w[f"{name}.in_proj_bias"]
    q, k, v = (
        x @ weights[i * WIDTH : (i + 1) * WIDTH].T + biases[i * WIDTH : (i + 1) * WIDTH]
        for i, x in enumerate((q, k, v))
    )
    heads = [slice(0, WIDTH // 2), slice(WIDTH // 2, WIDTH)]
    size = WIDTH // 2
    found = [(q[:, h] @ k[:, h].T / math.sqrt(size)).softmax(-1) @ v[:, h] for h in heads]
    return torch.cat(found, -1) @ w[f"{name}.out_proj.weight"].T + w[f"{name}.out_proj.bias"]


def block(w: State, name: str, x: Tensor) -> Tensor:
    y = norm(w, f"{name}.ln_1", x)
    x = x + attention(w, f"{name}.attn", y, y, y)
    y = norm(w, f"{name}.ln_2", x) @ w[f"{name}.mlp.c_fc.weight"].T + w[f"{name}.mlp.c_fc.bias"]
    y = 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))
    return x + y @ w[f"{name}.mlp.c_proj.weight"].T + w[f"{name}.mlp.c_proj.bias"]


def naive_moments(w: State, frame: Tensor) -> Tensor:
    """Encode a frame (3, H, W) to moments (L, 2C), the scrambled head included."""
    kernel = w["encoder.patch_embed.weight"].flatten(1)
    cut = [frame[:, PATCH * i :, PATCH * j :] for i in range(SIDE) for j in range(SIDE)]
    pixels = torch.stack([piece[:, :PATCH, :PATCH].flatten() for piece in cut])
    patches = pixels @ kernel.T + w["encoder.patch_embed.bias"]
    seen = torch.cat([w["encoder.class_embedding"], patches]) + w["encoder.positional_embedding"]
    asked = w["latent_tokens"] + w["encoder.latent_token_positional_embedding"]
    x = norm(w, "encoder.ln_pre", torch.cat([seen, asked]))
    for i in range(DEPTH):
        x = block(w, f"encoder.transformer.{i}", x)
    y = norm(w, "encoder.ln_post", x[-TOKENS:])
    flat = y.flatten()
    scrambled = torch.stack([flat[TOKENS * k : TOKENS * (k + 1)] for k in range(WIDTH)])
    moments = w["encoder.conv_out.weight"].flatten(1) @ scrambled
    return moments.T + w["encoder.conv_out.bias"]


def conv(w: State, name: str, x: Tensor) -> Tensor:
    weight = w[f"{name}.weight"]
    return F.conv2d(x, weight, w.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def silu_norm(w: State, name: str, x: Tensor) -> Tensor:
    weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    return F.silu(F.group_norm(x, len(weight) // 4, weight, bias, eps=1e-6))


def naive_residual(w: State, name: str, x: Tensor) -> Tensor:
    h = conv(w, f"{name}.conv1", silu_norm(w, f"{name}.norm1", x))
    h = conv(w, f"{name}.conv2", silu_norm(w, f"{name}.norm2", h))
    wide = f"{name}.nin_shortcut.weight" in w
    return h + (conv(w, f"{name}.nin_shortcut", h) if wide else x)


def naive_pixels(w: State, x: Tensor) -> Tensor:
    """Decode embeddings (1, MIX, SIDE, SIDE) to a frame (1, 3, H, W)."""
    x = conv(w, "pixel_decoder.conv_in", x)
    for i in range(2):
        x = naive_residual(w, f"pixel_decoder.mid.{i}", x)
    for level in (3, 2, 1, 0):
        for i in range(2):
            x = naive_residual(w, f"pixel_decoder.up.{level}.block.{i}", x)
        if level > 0:
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            x = conv(w, f"pixel_decoder.up.{level}.upsample_conv", x)
    return conv(w, "pixel_decoder.conv_out", silu_norm(w, "pixel_decoder.norm_out", x))


def naive_temporal(w: State, i: int, frames: list[Tensor]) -> list[Tensor]:
    """Mix frames [class, patches, latents] by the fine, then the coarse block of layer i."""
    fine, coarse = (f"decoder.{k}_temporal_blocks.{i}" for k in ("fine", "coarse"))
    heads, patches, latents = zip(*(x.split([1, SIDE**2, TOKENS]) for x in frames), strict=True)
    y = torch.stack([norm(w, f"{fine}.ln_1", x) for x in patches])
    mixed = []
    for f in range(len(frames)):
        places = [(y[: f + 1, p], y[f, p][None]) for p in range(SIDE**2)]
        moved = [attention(w, f"{fine}.attn", q, past, past) for past, q in places]
        tokens = torch.cat([patches[f] + torch.cat(moved), latents[f]])
        k, v = (norm(w, f"{coarse}.{n}", torch.cat(latents[: f + 1])) for n in ("ln_k", "ln_v"))
        tokens = tokens + attention(w, f"{coarse}.attn", norm(w, f"{coarse}.ln_q", tokens), k, v)
        mixed.append(torch.cat([heads[f], tokens]))
    return mixed


def naive_decode(w: State, latents: Tensor, *, temporal: bool = False) -> Tensor:
    """Decode the tokens (F, L, C) of a video to frames (F, 3, H, W)."""
    z = latents / latents.norm(dim=-1, keepdim=True)
    z = z @ w["decoder.decoder_embed.weight"].T + w["decoder.decoder_embed.bias"]
    z = z + w["decoder.latent_token_positional_embedding"]
    blank = torch.cat([w["decoder.class_embedding"], *(SIDE**2 * [w["decoder.mask_token"][0]])])
    blank = blank + w["decoder.positional_embedding"]
    frames = [norm(w, "decoder.ln_pre", torch.cat([blank, tokens])) for tokens in z]
    for i in range(DEPTH):
        frames = naive_temporal(w, i, frames) if temporal else frames
        frames = [block(w, f"decoder.transformer.{i}", x) for x in frames]
    decoded = []
    for x in frames:
        y = norm(w, "decoder.ln_post", x[1 : 1 + SIDE**2])
        y = y.T.reshape(1, WIDTH, SIDE, SIDE)
        y = conv(w, "decoder.ffn.2", conv(w, "decoder.ffn.0", y).tanh())
        decoded.append(naive_pixels(w, conv(w, "pixel_quantize_conv", y.softmax(dim=1))))
    return torch.cat(decoded)
