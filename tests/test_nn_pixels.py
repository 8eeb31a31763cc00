import pytest
import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor
from torch.testing import assert_close

from ardiffusion.nn.pixels import (
    DetachedResidualBlock,
    PixelDecoder,
    ResidualBlock,
    conv,
    doubled,
    group_norm,
)


def naive_norm(x: Tensor, groups: int) -> Tensor:
    parts = [(g - g.mean()) / (g.var(correction=0) + 1e-6).sqrt() for g in x[0].chunk(groups)]
    return torch.cat(parts)[None]


@pytest.mark.parametrize("kind", [ResidualBlock, DetachedResidualBlock])
@pytest.mark.parametrize("outputs", [8, 12])
def test_residual_adds_the_input_or_its_published_substitute(
    kind: type[ResidualBlock], outputs: int
) -> None:
    torch.manual_seed(0)
    block = kind(8, outputs).double()
    torch.nn.init.normal_(block.conv2.weight)
    x = torch.randn(1, 8, 5, 5, dtype=torch.float64)
    h = F.conv2d(F.silu(naive_norm(x, groups=2)), block.conv1.weight, padding=1)
    h = F.silu(naive_norm(h, groups=block.norm2.num_groups))
    h = F.conv2d(h, block.conv2.weight, padding=1)
    if block.shortcut is None:
        expected = h + x
    else:
        source = h if kind is DetachedResidualBlock else x
        expected = h + torch.einsum("oi,nihw->nohw", block.shortcut.weight[..., 0, 0], source)
    torch.testing.assert_close(block(x), expected)


def test_levels_have_the_published_widths() -> None:
    with torch.device("meta"):
        decoder = PixelDecoder(patch=16, width=128, embedding=256)
    levels = [level.get_parameter("blocks.0.conv1.weight").shape for level in decoder.levels]
    assert [(s[1], s[0]) for s in levels] == [
        (128, 128),
        (256, 128),
        (256, 256),
        (512, 256),
        (512, 512),
    ]


def test_channels_lie_side_by_side_whatever_the_layout_of_the_input() -> None:
    torch.manual_seed(0)
    decoder = PixelDecoder(patch=4, width=8, embedding=6).double()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    last = x.contiguous(memory_format=torch.channels_last)
    layouts: list[bool] = []
    for module in decoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(
                lambda _, args: layouts.append(
                    args[0].is_contiguous(memory_format=torch.channels_last)
                )
            )
    torch.testing.assert_close(decoder(x), decoder(last), rtol=1e-10, atol=1e-10)
    assert len(layouts) > 20 and all(layouts)
    assert all(p.is_contiguous() for p in decoder.state_dict().values())


def test_result_is_that_of_channels_first() -> None:
    torch.manual_seed(0)
    decoder = PixelDecoder(patch=2, width=8, embedding=6).double()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    h = decoder.conv_in(x)
    for layer in (*decoder.middle, *reversed(decoder.levels)):
        h = layer(h.contiguous())  # which puts rows of pixels side by side
    expected = decoder.conv_out(F.silu(decoder.norm_out(h)))
    torch.testing.assert_close(decoder(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("patch", [1, 2, 8])
def test_resolution_grows_by_the_patch(patch: int) -> None:
    frames = PixelDecoder(patch=patch, width=4, embedding=3)(torch.randn(2, 3, 2, 5))
    assert frames.shape == (2, 3, 2 * patch, 5 * patch)


def test_a_patch_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="patch 12 is not a power of two"):
        PixelDecoder(patch=12, width=4, embedding=3)


@pytest.mark.parametrize("channels", [1, 3, 16, 34, 128, 256])
def test_every_width_has_a_group_count(channels: int) -> None:
    groups = group_norm(channels).num_groups
    assert channels % groups == 0 and groups <= 32
    assert groups == 32 or channels < 128


def test_doubling_equals_convolving_repeated_pixels() -> None:
    layer, x = conv(5, 3).double(), torch.randn(2, 5, 4, 6, dtype=torch.float64)
    torch.nn.init.normal_(layer.weight)
    x.requires_grad_()
    expected = layer(repeat(x, "n c h w -> n c (h i) (w j)", i=2, j=2))
    found = doubled(x, layer)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)
    inputs = [x, *layer.parameters()]
    grads = [torch.autograd.grad(y.square().sum(), inputs) for y in (found, expected)]
    assert_close(*grads, rtol=1e-10, atol=1e-10)
