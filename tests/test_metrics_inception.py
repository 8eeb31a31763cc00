import math
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ardiffusion.metrics.inception import InflatedInception, Logits, Mixed, SamePool, Unit

T = TypeVar("T", bound=nn.Module)

# What each mixed block puts out, from Table 1 of Szegedy et al.
WIDTHS = {"3b": 256, "3c": 480, "4b": 512, "4c": 512, "4d": 512, "4e": 528, "4f": 832}
WIDTHS |= {"5b": 832, "5c": 1024}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return InflatedInception().state_dict()


def places(n: int, kernel: int, stride: int) -> list[list[tuple[int, int]]]:
    """For each output, the kernel's offsets and the inputs they meet, as TensorFlow defines it."""
    out = math.ceil(n / stride)
    front = max((out - 1) * stride + kernel - n, 0) // 2
    pairs = [[(d, o * stride + d - front) for d in range(kernel)] for o in range(out)]
    return [[(d, i) for d, i in each if 0 <= i < n] for each in pairs]


def windows(
    x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int], weight: Tensor
) -> Tensor:
    """Convolve a double video (C, F, H, W) with "SAME" padding, term by term."""
    axes = [places(n, k, s) for n, k, s in zip(x.shape[1:], kernel, stride, strict=True)]
    out = x.new_zeros(len(weight), *map(len, axes))
    for f, fs in enumerate(axes[0]):
        for h, hs in enumerate(axes[1]):
            for w, ws in enumerate(axes[2]):
                for a, i in fs:
                    for b, j in hs:
                        for c, k in ws:
                            out[:, f, h, w] += weight[:, :, a, b, c] @ x[:, i, j, k]
    return out


def naive_pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    axes = [places(n, k, s) for n, k, s in zip(x.shape[1:], kernel, stride, strict=True)]
    out = x.new_zeros(len(x), *map(len, axes))
    for f, fs in enumerate(axes[0]):
        for h, hs in enumerate(axes[1]):
            for w, ws in enumerate(axes[2]):
                seen = [x[:, i, j, k] for _, i in fs for _, j in hs for _, k in ws]
                out[:, f, h, w] = torch.stack(seen).amax(0)
    return out


def naive_unit(x: Tensor, unit: Unit) -> Tensor:
    x = windows(x, unit.kernel, unit.stride, unit.get_parameter("conv3d.weight"))
    values = unit.state_dict()
    names = ("running_mean", "running_var", "weight", "bias")
    mean, var, scale, shift = (values[f"bn.{name}"][:, None, None, None] for name in names)
    return ((x - mean) / (var + 0.001) ** 0.5 * scale + shift).clamp(min=0)


def randomised(module: T) -> T:
    generator = torch.Generator().manual_seed(1)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.1, 1, generator=generator).sub_(0.0 if value.ndim == 1 else 0.55)
    return module.double().eval()


def video(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_the_network_has_the_size_of_the_published_one(weights: dict[str, Tensor]) -> None:
    # 12.69 million according to OpenVINO's model zoo; the published file has 50.9 MB.
    assert sum(p.numel() for p in InflatedInception().parameters()) == 12_697_264
    stored = sum(4 * v.numel() for v in weights.values() if v.is_floating_point())
    assert 50_800_000 < stored < 50_900_000


def test_the_weights_have_the_names_of_the_published_file(weights: dict[str, Tensor]) -> None:
    units = ["Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"]
    branches = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")
    units += [f"Mixed_{block}.{branch}" for block in WIDTHS for branch in branches]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    parts = ["conv3d.weight", *(f"bn.{name}" for name in norm)]
    names = {f"{unit}.{part}" for unit in units for part in parts}
    assert set(weights) == names | {"logits.conv3d.weight", "logits.conv3d.bias"}
    assert weights["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert weights["logits.conv3d.weight"].shape == (400, 1024, 1, 1, 1)
    for block, width in WIDTHS.items():
        outs = [weights[f"Mixed_{block}.{b}.bn.bias"] for b in ("b0", "b1b", "b2b", "b3b")]
        assert sum(map(len, outs)) == width


@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize("sides", [(4, 5, 6), (3, 4, 7)])
def test_a_unit_pads_and_normalises_as_the_naive_one(
    kernel: int, stride: int, sides: tuple[int, int, int]
) -> None:
    unit = randomised(Unit(2, 3, kernel=kernel, stride=stride))
    x = video(2, *sides)
    assert_close(unit(x[None])[0], naive_unit(x, unit), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 3, 3), (2, 2, 2)])
@pytest.mark.parametrize("side", [5, 6])
def test_pooling_pads_as_the_naive_one(kernel: tuple[int, int, int], side: int) -> None:
    x = video(2, 5, side, 7).relu()
    stride = (kernel[0] // 2 + kernel[0] % 2, 2, 2)
    pooled = SamePool(kernel, stride=stride)(x[None])[0]
    assert_close(pooled, naive_pool(x, kernel, stride), rtol=0, atol=0)


def test_a_mixed_block_matches_the_naive_one() -> None:
    block = randomised(Mixed(4, 2, 3, 5, 2, 3, 4))
    x = video(4, 3, 4, 5).relu()
    expected = torch.cat(
        [
            naive_unit(x, block.b0),
            naive_unit(naive_unit(x, block.b1a), block.b1b),
            naive_unit(naive_unit(x, block.b2a), block.b2b),
            naive_unit(naive_pool(x, (3, 3, 3), (1, 1, 1)), block.b3b),
        ]
    )
    assert expected.shape == (14, 3, 4, 5)
    assert_close(block(x[None])[0], expected, rtol=1e-12, atol=1e-12)


def test_logits_are_averaged_over_two_frames_each_and_then_over_time() -> None:
    layer = randomised(Logits(6, 5))
    x = video(6, 4, 7, 7)
    weight, bias = (layer.get_parameter(f"conv3d.{name}") for name in ("weight", "bias"))
    each = [weight[:, :, 0, 0, 0] @ x[:, f : f + 2].mean(dim=(1, 2, 3)) + bias for f in range(3)]
    assert_close(layer(x[None])[0], torch.stack(each).mean(0), rtol=1e-12, atol=1e-12)
