"""Small random weights as published files: by the published names, with the published quirks."""

from dataclasses import replace

import pytest
import torch
from einops import rearrange
from hub_server import REPO
from safetensors.torch import save
from torch import Tensor, nn

from ardiffusion.nn.arvae import PublishedARVAE
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.published import presets
from ardiffusion.published.arvae import POINTWISE
from ardiffusion.published.arvae import published_name as tokenizer_name
from ardiffusion.published.dit import published_name as transformer_name

TOKENIZER = "skytimelapse/vae_4ch_32len/model.safetensors"
TRANSFORMER = "skytimelapse/nvae_midt/checkpoint-100000/model.safetensors"


def published_tokenizer() -> dict[str, Tensor]:
    torch.manual_seed(0)
    net = PublishedARVAE(
        resolution=32, patch=8, width=64, depth=1, pixel_width=16, codebook=8, embedding=8
    )
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)  # at first the latents hardly show
    made = {tokenizer_name(name): value for name, value in net.state_dict().items()}
    for name in POINTWISE:
        made[name] = rearrange(made[name], "o i -> o i 1 1")
    made["decoder.mask_token"] = rearrange(made["decoder.mask_token"], "one d -> 1 one d")
    return made


def published_transformer(classes: int = 0) -> dict[str, Tensor]:
    """Make the kind with rotary positions, whose file tells how many heads it has."""
    torch.manual_seed(1)
    net = PublishedDiT(
        width=16,
        depth=1,
        heads=2,
        classes=classes,
        rotary=True,
        qk_norm=True,
        context=2,
        context_width=8,
    )
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    made = {transformer_name(n, classes=classes): v for n, v in net.state_dict().items()}
    frequencies = 1e4 ** -(torch.arange(4, dtype=torch.float64) / 4)
    return made | {"diffusion_model.model.rotary_emb.freqs": frequencies.float()}


def published_repository() -> dict[str, bytes]:
    """Make the files of a repository with weights for two data sets."""
    tokenizer = save(published_tokenizer())
    return {
        TOKENIZER: tokenizer,
        TRANSFORMER: save(published_transformer()),
        "ucf101/vae_4ch_32len/model.safetensors": tokenizer,
        "ucf101/midt_class/checkpoint-50000/model.safetensors": save(published_transformer(101)),
    }


def publish_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for all published weights in the repository of our own Hub."""
    here = {name: replace(short, repository=REPO) for name, short in presets.PRESETS.items()}
    monkeypatch.setattr(presets, "PRESETS", here)
