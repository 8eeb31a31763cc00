import pickle
import urllib.error
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchmetrics.functional.image.lpips as reference
from torch import Tensor
from torch.testing import assert_close

from ardiffusion.nn.perceptual import LPIPS, VGG_STAGES, VGGDistance

POSITIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like torchvision's, with random weights and a classifier that is of no use."""
    generator, weights, channels = torch.Generator().manual_seed(0), {}, 3
    widths = [width for stage in VGG_STAGES for width in stage]
    for position, width in zip(POSITIONS, widths, strict=True):
        weight = torch.randn(width, channels, 3, 3, generator=generator)
        weights[f"features.{position}.weight"] = weight * (2 / (9 * channels)) ** 0.5
        weights[f"features.{position}.bias"] = 0.1 * torch.randn(width, generator=generator)
        channels = width
    weights["classifier.0.bias"] = torch.zeros(1)
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(weights, path)
    return path


@pytest.fixture(scope="module")
def lpips(trunk: Path) -> LPIPS:
    network = LPIPS(trunk=str(trunk))
    network.load()
    return network


def images(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(2, 2, 3, 16, 20, generator=generator)
    return x, y


def naive(x: Tensor, y: Tensor, trunk: Path) -> Tensor:
    weights = torch.load(trunk, weights_only=True)
    heads_file = Path(reference.__file__).parent / "lpips_models" / "vgg.pth"
    heads = torch.load(heads_file, weights_only=True, map_location="cpu")
    mean = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64).view(3, 1, 1)
    x, y = ((2 * image.double() - 1 - mean) / std for image in (x, y))
    result, stage = torch.zeros(len(x), dtype=torch.float64), 0
    for position in POSITIONS:
        if position in (5, 10, 17, 24):
            x, y = F.max_pool2d(x, 2), F.max_pool2d(y, 2)
        kernel = weights[f"features.{position}.weight"].double()
        bias = weights[f"features.{position}.bias"].double()
        x, y = (F.conv2d(image, kernel, bias, padding=1).clamp(min=0) for image in (x, y))
        if position in (2, 7, 14, 21, 28):
            u, v = (z / (1e-8 + (z * z).sum(1, keepdim=True)) ** 0.5 for z in (x, y))
            head = heads[f"lin{stage}.model.1.weight"].double()
            result = result + F.conv2d((u - v) ** 2, head).mean(dim=(1, 2, 3))
            stage += 1
    return result


def test_matches_a_naive_float64_lpips(lpips: LPIPS, trunk: Path) -> None:
    x, y = images(0)
    assert_close(lpips(x, y).double(), naive(x, y, trunk), rtol=1e-4, atol=1e-6)


def test_matches_torchmetrics(lpips: LPIPS, monkeypatch: pytest.MonkeyPatch) -> None:
    features = lpips._loaded[0].features
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda *_, **__: features)
    expected = reference._LPIPS(net="vgg")
    x, y = images(1)
    assert_close(lpips(x, y), expected(x, y, normalize=True).flatten(), rtol=1e-5, atol=1e-6)


def test_equal_images_are_at_distance_zero_with_finite_gradients(lpips: LPIPS) -> None:
    x = images(2)[0]
    y = x.clone().requires_grad_()
    lpips(x, y).sum().backward()
    assert_close(lpips(x, y).detach(), torch.zeros(2))
    assert y.grad is not None and y.grad.isfinite().all()


def test_gradients_reach_both_images(lpips: LPIPS) -> None:
    x, y = (image.requires_grad_() for image in images(3))
    for gradient in torch.autograd.grad(lpips(x, y).sum(), (x, y)):
        assert gradient.isfinite().all() and (gradient != 0).any()


def test_a_first_use_in_inference_mode_does_not_spoil_training(trunk: Path) -> None:
    network = LPIPS(trunk=str(trunk))
    x, y = images(6)
    with torch.inference_mode():
        network.load()
        network(x, y)
    y.requires_grad_()
    (gradient,) = torch.autograd.grad(network(x, y).sum(), y)
    assert (gradient != 0).any()


def test_the_network_is_out_of_reach_of_training(lpips: LPIPS) -> None:
    before = lpips(*images(4))
    lpips.train().requires_grad_(True).to(torch.bfloat16)
    assert not lpips.state_dict() and not list(lpips.parameters()) and not list(lpips.buffers())
    inner = lpips._loaded[0]
    assert not inner.training and not any(p.requires_grad for p in inner.parameters())
    assert_close(lpips(*images(4)), before, rtol=0, atol=0)


def test_loading_leaves_randomness_alone_and_a_pickle_loads_again(trunk: Path) -> None:
    state = torch.get_rng_state()
    network = LPIPS(trunk=str(trunk))
    network.load()
    first = network(*images(5))
    assert_close(torch.get_rng_state(), state)
    copy = pickle.dumps(network)
    assert len(copy) < 10_000
    network = pickle.loads(copy)
    with pytest.raises(RuntimeError, match=r"LPIPS has no network yet: call its load\(\) first"):
        network(*images(5))
    network.load()
    assert_close(network(*images(5)), first, rtol=0, atol=0)


def test_layers_are_counted_as_in_torchvision() -> None:
    keys = [f"{position}.{kind}" for position in POSITIONS for kind in ("weight", "bias")]
    assert list(VGGDistance().features.state_dict()) == keys


def test_offline_names_the_file_its_source_and_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no connection")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    network = LPIPS()
    with pytest.raises(FileNotFoundError) as error:
        network.load()
    says = str(error.value)
    for part in ("vgg16-397923af.pth", "https://download.pytorch.org/models/", str(tmp_path)):
        assert part in says
    assert "`trunk`" in says and "perceptual weight of 0" in says


def test_a_file_that_is_no_vgg_is_named(tmp_path: Path) -> None:
    other, text = tmp_path / "other.pth", tmp_path / "text.pth"
    torch.save({"features.0.weight": torch.zeros(2)}, other)
    text.write_text("no weights")
    torch.save([torch.zeros(2)], listed := tmp_path / "list.pth")
    for path in (other, text, listed):
        with pytest.raises(ValueError, match=f"{path} does not hold the VGG16 of torchvision"):
            LPIPS(trunk=str(path)).load()
    with pytest.raises(FileNotFoundError, match=r"needs .*nowhere\.pth"):
        LPIPS(trunk=str(tmp_path / "nowhere.pth")).load()
