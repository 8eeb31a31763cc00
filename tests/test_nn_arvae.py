from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ardiffusion.nn.arvae import ARVAE, PublishedARVAE
from ardiffusion.nn.autoencoder import Posterior
from ardiffusion.nn.blocks import FrameCache, PairCache, RingCache
from ardiffusion.nn.encoder import ScrambledHead
from ardiffusion.nn.pixels import DetachedResidualBlock

SIZES: dict[str, Any] = {
    "resolution": 8,
    "patch": 4,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "tokens": 3,
    "pixel_width": 4,
    "codebook": 8,
    "embedding": 6,
}


def make(kind: type[ARVAE] = ARVAE, **options: Any) -> ARVAE:  # noqa: ANN401
    torch.manual_seed(0)
    return kind(**{**SIZES, **options})


def lively(arvae: ARVAE) -> ARVAE:
    for parameter in arvae.parameters():
        nn.init.normal_(parameter, std=0.3)
    return arvae.double()


@pytest.mark.parametrize("kind", [ARVAE, PublishedARVAE])
def test_every_frame_is_encoded_by_itself(kind: type[ARVAE]) -> None:
    arvae = lively(make(kind, temporal=True))
    video = torch.rand(2, 3, 3, 8, 8, dtype=torch.float64)
    whole = arvae.encode(video)
    assert whole.shape == (2, 3, 3, 4)
    for frame in range(3):
        torch.testing.assert_close(arvae.encode(video[:, [frame]]), whole[:, [frame]])


def test_variants_differ_by_their_parts_alone() -> None:
    new, published = make(), make(PublishedARVAE)
    assert isinstance(published.encoder.head, ScrambledHead)
    assert not isinstance(new.encoder.head, ScrambledHead)
    detached = [isinstance(m, DetachedResidualBlock) for m in published.pixels.middle]
    assert all(detached)
    assert not any(isinstance(m, DetachedResidualBlock) for m in new.modules())


def naive_decode(arvae: ARVAE, latents: Tensor) -> Tensor:
    """Decode all frames at once, as if nothing had been before them."""
    return arvae.decode_next(latents, cache=arvae.decoder.make_cache())


@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize("window", [1, 3, 16])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("gradients", [False, True])
def test_stream_equals_whole(temporal: bool, window: int, batch: int, gradients: bool) -> None:
    arvae = lively(make(temporal=temporal, window=window))
    latents = torch.randn(batch, 20, 3, 4, dtype=torch.float64)
    naive = naive_decode(arvae, latents)
    assert naive.shape == (batch, 20, 3, 8, 8)
    with torch.set_grad_enabled(gradients):
        streamed = [
            torch.stack(list(arvae.stream_decode(iter(latents.unbind(1)), together)), dim=1)
            for together in (1, 3)
        ]
        for video in (*streamed, arvae.decode(latents), naive_decode(arvae, latents)):
            torch.testing.assert_close(video, naive, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_stream_equals_whole_in_float32() -> None:
    arvae = lively(make(temporal=True, window=4)).float()
    latents = torch.randn(3, 11, 3, 4)
    naive = naive_decode(arvae, latents)
    streamed = torch.stack(list(arvae.stream_decode(iter(latents.unbind(1)))), dim=1)
    for video in (streamed, arvae.decode(latents)):
        assert (video - naive).norm() <= 1e-5 * naive.norm()


@pytest.mark.parametrize("sizes", [[5, 1, 1, 7, 2], [1, 1, 1, 1, 6, 6], [2, 2, 1, 11]])
@torch.no_grad()
def test_frames_may_come_in_parts_of_any_size(sizes: list[int]) -> None:
    arvae = lively(make(temporal=True, window=4))
    latents = torch.randn(2, 16, 3, 4, dtype=torch.float64)
    cache = arvae.decoder.make_cache()
    parts = [arvae.decode_next(part, cache) for part in latents.split(sizes, dim=1)]
    naive = naive_decode(arvae, latents)
    torch.testing.assert_close(torch.cat(parts, dim=1), naive, rtol=1e-10, atol=1e-10)


def bytes_kept(caches: list[PairCache]) -> int:
    """Return how much memory caches keep alive, not only the part that they show."""
    tensors = [x for pair in caches for cache in pair for x in kept(cache)]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    return sum(storages.values())


def kept(cache: FrameCache) -> tuple[Tensor, ...]:
    assert isinstance(cache, RingCache)
    return cache.keys_values or ()


@pytest.mark.parametrize("part", [1, 3, 10])
@torch.no_grad()
def test_what_a_stream_keeps_has_one_size_from_the_first_frame_on(part: int) -> None:
    arvae = make(temporal=True, window=3)
    caches, sizes = arvae.decoder.make_cache(), []
    for _ in range(20):
        arvae.decode_next(torch.randn(2, part, 3, 4), cache=caches)
        sizes.append(bytes_kept(caches))
    pairs, window, frame = 2, 3, (4 + 3) * 16 * 4  # patches and latents of 16 floats
    assert sizes == 20 * [pairs * 2 * 2 * window * frame]
    assert [memory.frames for pair in caches for memory in pair] == 4 * [2]


def test_a_frame_is_asked_for_when_the_one_before_is_out() -> None:
    asked: list[int] = []

    def latents() -> Iterator[Tensor]:
        for frame in range(3):
            asked.append(frame)
            yield torch.randn(1, 3, 4)

    for frame, _ in enumerate(make(temporal=True).stream_decode(latents())):
        assert asked == list(range(frame + 1))


def test_gradients_reach_frames_of_earlier_parts() -> None:
    arvae = lively(make(temporal=True, window=2))
    latents = torch.randn(1, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1, 5, 3, 8, 8, dtype=torch.float64)
    found, expected = (
        torch.autograd.grad((decode(latents) * weights).sum(), latents)[0]
        for decode in (arvae.decode, partial(naive_decode, arvae))
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_stage_2_learns_tokens_of_unit_length() -> None:
    latents = torch.randn(2, 3, 3, 4, dtype=torch.float64)
    expected = torch.zeros_like(latents)
    for index in product(range(2), range(3), range(3)):
        expected[index] = latents[index] / sum(x**2 for x in latents[index].tolist()) ** 0.5
    unit = make().normalise(latents)
    torch.testing.assert_close(unit, expected)
    torch.testing.assert_close(make().normalise(unit), unit)


def test_decoding_normalises_tokens() -> None:
    arvae = lively(make(temporal=True)).float()
    latents = torch.randn(2, 3, 3, 4)
    assert torch.equal(arvae.decode(2 * latents), arvae.decode(latents))
    assert not torch.equal(arvae.decode(-latents), arvae.decode(latents))


def test_stage_1b_starts_from_stage_1a_exactly() -> None:
    before, after = make(), make(temporal=True)
    missing, surplus = after.load_state_dict(before.state_dict(), strict=False)
    assert not surplus and missing
    assert {id(after.get_parameter(n)) for n in missing} == {
        id(p) for p in after.temporal_parameters()
    }
    video = torch.rand(2, 5, 3, 8, 8)
    for new, old in zip(after(video), before(video), strict=True):
        assert torch.equal(new, old)


@pytest.mark.parametrize("temporal", [False, True])
def test_all_parameters_get_finite_gradients(temporal: bool) -> None:
    arvae = lively(make(temporal=temporal))
    video = torch.rand(2, 3, 3, 8, 8, dtype=torch.float64)
    noise = torch.randn(2, 3, 3, 4, dtype=torch.float64)
    fake, mean, logvar = arvae(video, noise=noise)
    loss = (fake - video).square().mean() + Posterior(mean, logvar).kl().mean()
    loss.backward()
    for name, parameter in arvae.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_posterior_matches_the_normal_distribution() -> None:
    posterior = Posterior(torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5))
    normal = torch.distributions.Normal(posterior.mean, (posterior.logvar / 2).exp())
    kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(posterior.kl(), kl.sum(dim=(2, 3)))
    noise = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(posterior.sample(noise), normal.mean + normal.stddev * noise)


def test_log_variances_are_clamped() -> None:
    arvae = make()
    for bias, expected in ((1e3, 20.0), (-1e3, -30.0)):
        nn.init.constant_(arvae.encoder.head.bias, bias)
        logvar = arvae.posterior(torch.rand(1, 1, 3, 8, 8)).logvar
        torch.testing.assert_close(logvar, torch.full_like(logvar, expected))


def test_the_last_layer_makes_the_pixels() -> None:
    arvae = make()
    assert arvae.last_layer is arvae.pixels.conv_out.weight and arvae.last_layer.shape[0] == 3


def test_small_models_may_do_without_codebook() -> None:
    arvae = make(codebook=0)
    assert arvae.decode(torch.randn(1, 2, 3, 4)).shape == (1, 2, 3, 8, 8)


def test_a_resolution_that_patches_do_not_fill_is_refused() -> None:
    with pytest.raises(ValueError, match="resolution 10 is not a multiple of patch 4"):
        make(resolution=10)


def test_training_learns_to_tell_frames_apart() -> None:
    arvae = make(width=32, pixel_width=8, codebook=16)
    optimizer = torch.optim.Adam(arvae.parameters(), lr=1e-3)
    coarse = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    video = rearrange(F.interpolate(coarse, size=(8, 8), mode="bilinear"), "b c h w -> b 1 c h w")
    loss = torch.ones(())
    for _ in range(60):
        loss = (arvae(video)[0] - video).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5 * video.var(dim=0).mean()  # the mean of all frames would reach 1
