import os
import re
from pathlib import Path

import pytest
import torch
from goldens import golden_weights, load_golden
from naive_tokenizer import (
    BASE,
    CHANNELS,
    CODES,
    DEPTH,
    MIX,
    PATCH,
    SIDE,
    TOKENS,
    WIDTH,
    State,
    affine,
    naive_decode,
    naive_moments,
    tokenizer_shapes,
)
from parity_arvae import temporal_tokenizer, tokenizer

from ardiffusion.convert import from_published, from_titok
from ardiffusion.nn.arvae import ARVAE, PublishedARVAE
from ardiffusion.published.arvae import published_name


def state(*, temporal: bool = False) -> State:
    return golden_weights(tokenizer_shapes(temporal=temporal), (), scale=0.15, salt="")


def tokenizer_of(weights: State, heads: int | None = 2) -> PublishedARVAE:
    arvae = from_published(weights, heads=heads)["arvae"]
    assert isinstance(arvae, PublishedARVAE)
    return arvae


def double(weights: State) -> State:
    return {name: value.double() for name, value in weights.items()}


def test_encoding_matches_the_naive_reference() -> None:
    video = torch.rand(1, 2, 3, 24, 24, dtype=torch.float64)
    mean, logvar = tokenizer_of(state()).double().posterior(video)
    for f in range(2):
        expected = naive_moments(double(state()), video[0, f])
        torch.testing.assert_close(torch.cat([mean, logvar], dim=-1)[0, f], expected)


@pytest.mark.parametrize("temporal", [False, True])
def test_decoding_matches_the_naive_reference(temporal: bool) -> None:
    weights = state(temporal=temporal)
    latents = torch.randn(1, 3, TOKENS, CHANNELS, dtype=torch.float64)
    found = tokenizer_of(weights).double().decode(latents)[0]
    expected = naive_decode(double(weights), latents[0], temporal=temporal)
    assert expected.std(dim=0).mean() > 1e-3  # the latents matter
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("temporal", [False, True])
def test_sizes_are_read_off_shapes(temporal: bool) -> None:
    arvae = tokenizer_of(state(temporal=temporal), heads=None)
    assert (arvae.resolution, arvae.patch) == (PATCH * SIDE, PATCH)
    assert (arvae.width, arvae.depth, arvae.heads) == (WIDTH, DEPTH, 1)
    assert (arvae.tokens, arvae.channels, arvae.temporal) == (TOKENS, CHANNELS, temporal)
    assert (arvae.pixel_width, arvae.codebook, arvae.embedding) == (BASE, CODES, MIX)


@pytest.mark.parametrize("prefix", ["module.", "vae.", "module.vae."])
def test_prefixes_make_no_difference(prefix: str) -> None:
    plain = tokenizer_of(state(), heads=None).state_dict()
    prefixed = {f"{prefix}{name}": value for name, value in state().items()}
    found = tokenizer_of(prefixed, heads=None).state_dict()
    torch.testing.assert_close(found, plain, rtol=0, atol=0)


def test_weights_are_taken_over_without_a_copy() -> None:
    weights = state()
    pointers = {value.data_ptr() for value in weights.values()}
    arvae = tokenizer_of(weights)
    assert {p.data_ptr() for p in arvae.parameters()} == pointers
    assert all(p.requires_grad for p in arvae.parameters())


def test_missing_and_surplus_entries_are_all_named() -> None:
    weights = state() | {"decoder.more.weight": torch.zeros(1), "zebra": torch.zeros(1)}
    gone = ("decoder.ln_post.bias", "pixel_decoder.up.1.upsample_conv.bias")
    for name in gone:
        del weights[name]
    with pytest.raises(ValueError) as caught:
        tokenizer_of(weights)
    assert all(n in str(caught.value) for n in (*gone, "decoder.more.weight", "zebra"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["encoder.patch_embed.weight", "decoder.decoder_embed.weight"])
def test_an_entry_that_tells_sizes_is_asked_for(name: str) -> None:
    weights = state()
    del weights[name]
    with pytest.raises(ValueError, match=rf"lacks {re.escape(name)}"):
        tokenizer_of(weights)


def titok(channels: int = 6) -> State:
    """Make TiTok's own tokenizer, which has `channels` and discrete latents."""
    shapes = tokenizer_shapes()
    shapes |= affine("encoder.conv_out", channels, WIDTH, 1, 1)
    shapes |= affine("decoder.decoder_embed", WIDTH, channels)
    shapes |= {"quantize.embedding.weight": (20, channels)}
    shapes |= {"pixel_quantize.embedding.weight": (CODES, MIX)}
    made = {n: s for n, s in shapes.items() if not n.startswith("pixel_quantize_conv")}
    return golden_weights(made, (), scale=0.15, salt="")


@pytest.mark.parametrize("tokens", [4, 6, 9])
def test_titok_starts_stage_one_with_any_token_count(tokens: int) -> None:
    source = titok()
    ours = from_titok(source, tokens=tokens, channels=3)
    head = source["encoder.conv_out.weight"][..., 0, 0]
    torch.testing.assert_close(ours.encoder.head.weight.data, head)
    embed = source["decoder.decoder_embed.weight"][:, :3]
    torch.testing.assert_close(ours.decoder.embed.weight.data, embed)
    kept = min(tokens, TOKENS)
    assert torch.equal(ours.encoder.queries[:kept], source["latent_tokens"][:kept])
    assert not ours.encoder.queries[kept:].any() and len(ours.encoder.queries) == tokens
    mix = ours.get_parameter("lookup.mix.weight")
    torch.testing.assert_close(mix.data, source["pixel_quantize.embedding.weight"].T)
    assert ours.decode(ours.encode(torch.rand(1, 1, 3, 24, 24))).isfinite().all()


def test_titok_halves_become_means_and_log_variances() -> None:
    source = titok(channels=12)
    ours = from_titok(source, tokens=TOKENS, channels=4)
    rows = [0, 1, 2, 3, 6, 7, 8, 9]
    head = source["encoder.conv_out.weight"][rows, :, 0, 0]
    torch.testing.assert_close(ours.encoder.head.weight.data, head)
    torch.testing.assert_close(ours.encoder.head.bias.data, source["encoder.conv_out.bias"][rows])
    with pytest.raises(ValueError, match="12 channels are too few for twice 7"):
        from_titok(source, channels=7)


def test_new_networks_have_the_same_names() -> None:
    with torch.device("meta"):
        ours = ARVAE(width=64, depth=1, heads=1, temporal=True).state_dict()
        published = PublishedARVAE(width=64, depth=1, heads=1, temporal=True).state_dict()
    assert list(ours) == list(published)
    assert len({published_name(name) for name in ours}) == len(ours)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae_large", "vae_large_temporal"])
def test_large_tokenizers_match_the_reference_implementation(name: str) -> None:
    folder = os.environ.get("GOLDENS")
    if folder is None:
        pytest.skip("set GOLDENS to the folder of the reference implementation's numbers")
    golden = load_golden(Path(folder, f"{name}.json"))
    compare = {"vae": tokenizer, "vae_temporal": temporal_tokenizer}[golden.manifest["kind"]]
    rows = list(compare(golden))
    assert len(rows) > 2
    assert [row for row in rows if not row.passes] == []
