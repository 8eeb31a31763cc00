"""The published tokenizers against the reference: moments, logits and decoded frames."""

import re
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from goldens import Golden, Row, compare
from torch import Tensor, nn

from ardiffusion.convert import from_published
from ardiffusion.nn.arvae import ARVAE

FORWARD, HALF = 1e-5, 3e-3


def build(golden: Golden) -> ARVAE:
    """Build the tokenizer of a manifest from its weights."""
    arvae = from_published(golden.state_dict())["arvae"]
    assert isinstance(arvae, ARVAE)
    return arvae.eval()


def draw(rule: str) -> Tensor:
    """Draw what a manifest's rule says, RandomState(seed).rand(sizes), before any resizing."""
    found = re.search(r"RandomState\((\d+)\)\.rand\(([\d, ]+)\)", rule)
    assert found is not None, rule
    sizes = [int(size) for size in found.group(2).split(",")]
    return torch.from_numpy(np.random.RandomState(int(found.group(1))).rand(*sizes)).float()


def watch(module: nn.Module) -> list[Tensor]:
    """Keep a copy of everything that a module puts out."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        seen.append(output)

    module.register_forward_hook(keep)
    return seen


def decoded(golden: Golden, arvae: ARVAE) -> Iterator[Row]:
    """Decode the stored latents."""
    logits, mixtures = (watch(arvae.get_submodule(n)) for n in ("lookup.logits", "lookup"))
    latents = rearrange(golden.tensors["latents_in"], "b f c 1 l -> b f l c")
    video = arvae.decode(latents)
    found = {
        "decoded_stride4_f32": (video[..., ::4, ::4], FORWARD),
        "decoded_f16": (video, HALF),
        "pixel_latent": (rearrange(mixtures[0][:1], "n (p q) e -> n e p q", p=16), FORWARD),
    }
    stride = arvae.codebook // golden.tensors["decoder_logits_slice"].shape[1]
    kept = rearrange(torch.cat(logits)[..., ::stride], "n (p q) k -> n k p q", p=16)
    found["decoder_logits_slice"] = (kept, FORWARD)
    for name in sorted(found.keys() & golden.tensors.keys()):
        ours, limit = found[name]
        yield compare(golden, name, ours, limit=limit)


@torch.no_grad()
def tokenizer(golden: Golden) -> Iterator[Row]:
    """Encode and decode with the tokenizer that knows single frames alone."""
    arvae, inputs = build(golden), golden.manifest["inputs"]
    layout = "b f l c -> b f c 1 l"
    posterior = arvae.posterior(draw(inputs["frames"]))
    yield compare(golden, "posterior_mean", rearrange(posterior.mean, layout), limit=FORWARD)
    moments = torch.cat([*posterior], dim=-1)
    yield compare(golden, "moments", rearrange(moments, layout)[0], limit=FORWARD)
    coarse = draw(inputs["frames_smooth"])
    smooth = F.interpolate(coarse, size=(256, 256), mode="bilinear", align_corners=False)[None]
    posterior = arvae.posterior(smooth)
    moments = torch.cat([*posterior], dim=-1)
    yield compare(golden, "moments_smooth", rearrange(moments, layout)[0], limit=FORWARD)
    video = arvae.decode(posterior.mean)[..., ::4, ::4]
    yield compare(golden, "recon_smooth_stride4_f32", video, limit=FORWARD)
    yield from decoded(golden, arvae)


@torch.no_grad()
def temporal_tokenizer(golden: Golden) -> Iterator[Row]:
    """Decode with the tokenizer whose frames see earlier ones."""
    yield from decoded(golden, build(golden))
