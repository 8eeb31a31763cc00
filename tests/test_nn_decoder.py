from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ardiffusion.nn.attention import causal_mask
from ardiffusion.nn.blocks import (
    CoarseTemporal,
    FineTemporal,
    FrameCache,
    GrowingCache,
    RingCache,
)
from ardiffusion.nn.decoder import Decoder, SoftCodebook

SIZES: dict[str, Any] = {
    "resolution": 8,
    "patch": 4,
    "width": 8,
    "depth": 2,
    "heads": 2,
    "channels": 3,
}


def lively(module: nn.Module) -> nn.Module:
    """Make every weight matter, zero ones included."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    return module.double()


def naive_attention(
    module: FineTemporal | CoarseTemporal, q: Tensor, k: Tensor, v: Tensor
) -> Tensor:
    """Attend from one token (D) to some (M, D), head by head."""
    weights, biases = module.attention.qkv.weight.chunk(3), module.attention.qkv.bias.chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((q, k, v), weights, biases, strict=True))
    size = len(q) // module.attention.heads
    found = []
    for part in (slice(i, i + size) for i in range(0, len(q), size)):
        found.append((k[:, part] @ q[part] / size**0.5).softmax(dim=0) @ v[:, part])
    return module.attention.out(torch.cat(found))


def visible(frame: int, window: int) -> slice:
    return slice(max(0, frame - window + 1), frame + 1)


@pytest.mark.parametrize("window", [2, 16])
@pytest.mark.parametrize("cache", [GrowingCache, RingCache])
@torch.no_grad()
def test_fine_attention_sees_the_same_patch_of_earlier_frames(
    cache: type[FrameCache], window: int
) -> None:
    fine = lively(FineTemporal(width=8, heads=2))
    assert isinstance(fine, FineTemporal)
    x = torch.randn(2, 4, 3, 8, dtype=torch.float64)
    mask = causal_mask(4, 4, tokens=1, window=window, device=x.device)
    expected, y = x.clone(), fine.norm(x)
    for b, f, p in torch.cartesian_prod(*map(torch.arange, (2, 4, 3))).tolist():
        seen = y[b, visible(f, window), p]
        expected[b, f, p] += naive_attention(fine, y[b, f, p], seen, seen)
    torch.testing.assert_close(fine(x, mask=mask, cache=cache(window)), expected)


@pytest.mark.parametrize("window", [2, 16])
@pytest.mark.parametrize("cache", [GrowingCache, RingCache])
@torch.no_grad()
def test_coarse_attention_sees_the_latents_of_earlier_frames(
    cache: type[FrameCache], window: int
) -> None:
    coarse = lively(CoarseTemporal(width=8, heads=2))
    assert isinstance(coarse, CoarseTemporal)
    x = torch.randn(2, 4, 5, 8, dtype=torch.float64)
    latents = x[:, :, 3:]
    mask = causal_mask(4, 4, tokens=1, window=window, device=x.device)
    q, k, v = coarse.norm_q(x), coarse.norm_k(latents), coarse.norm_v(latents)
    expected = x.clone()
    for b, f, n in torch.cartesian_prod(*map(torch.arange, (2, 4, 5))).tolist():
        keys, values = (y[b, visible(f, window)].flatten(0, 1) for y in (k, v))
        expected[b, f, n] += naive_attention(coarse, q[b, f, n], keys, values)
    found = coarse(x, latents=latents, mask=mask, cache=cache(window))
    torch.testing.assert_close(found, expected)


def jacobian_of_frames(decoder: Decoder, latents: Tensor) -> Iterator[Tensor]:
    """Sum, for each frame decoded, the absolute gradients to the latents of every frame."""
    latents.requires_grad_()
    features = decoder(latents, cache=decoder.make_cache()).unflatten(0, latents.shape[:2])
    for frame in features[0]:
        rows = [torch.autograd.grad(y, latents, retain_graph=True)[0] for y in frame.flatten()]
        yield torch.stack(rows).abs().sum(dim=(0, 1, 3, 4))


@pytest.mark.parametrize("window", [3, 16])
def test_future_frames_do_not_change_the_past(window: int) -> None:
    decoder = lively(Decoder(**SIZES, tokens=2, temporal=True, window=window))
    assert isinstance(decoder, Decoder)
    latents = torch.randn(1, 4, 2, 3, dtype=torch.float64)
    found = torch.stack(list(jacobian_of_frames(decoder, latents)))
    assert (found.triu(diagonal=1) == 0).all()
    assert (found.tril()[torch.ones(4, 4).tril().bool()] > 0).all()


def test_one_layer_sees_no_further_than_the_window() -> None:
    decoder = lively(Decoder(**SIZES | {"depth": 1}, tokens=2, temporal=True, window=2))
    assert isinstance(decoder, Decoder)
    latents = torch.randn(1, 4, 2, 3, dtype=torch.float64)
    found = torch.stack(list(jacobian_of_frames(decoder, latents)))
    assert ((found > 0) == torch.ones(4, 4).tril().triu(diagonal=-1).bool()).all()


def test_soft_codebook_mixes_embeddings_by_softmax() -> None:
    torch.manual_seed(0)
    lookup = SoftCodebook(width=6, codebook=5, embedding=4).double()
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    weights = lookup.logits(x).exp()
    expected = torch.zeros(2, 3, 4, dtype=torch.float64) + lookup.mix.bias
    for k in range(5):
        expected += (weights[..., k] / weights.sum(-1))[..., None] * lookup.mix.weight[:, k]
    torch.testing.assert_close(lookup(x), expected)


def test_soft_codebook_begins_undecided_and_with_outputs_of_unit_size() -> None:
    torch.manual_seed(0)
    lookup = SoftCodebook(width=128, codebook=256, embedding=64)
    x = torch.randn(200, 128)
    assert lookup.logits(x).softmax(dim=-1).max() < 0.05
    assert 0.5 < lookup(x).std() < 2
