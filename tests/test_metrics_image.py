import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchmetrics.functional.image import structural_similarity_index_measure

from ardiffusion.metrics.image import FrameMean, psnr, ssim


def pair(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    real = torch.randint(0, 256, shape, generator=generator)
    noise = torch.randint(-30, 31, shape, generator=generator)
    return real.to(torch.uint8), (real + noise).clamp(0, 255).to(torch.uint8)


def naive_ssim(x: Tensor, y: Tensor) -> float:
    """Window by window, for one frame (3, H, W)."""
    x, y = x.double() / 255, y.double() / 255
    side = [math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]
    weight = torch.tensor([[a * b for a in side] for b in side], dtype=torch.float64)
    weight, values = weight / weight.sum(), []
    for c in range(3):
        for i in range(x.shape[1] - 10):
            for j in range(x.shape[2] - 10):
                p, q = x[c, i : i + 11, j : j + 11], y[c, i : i + 11, j : j + 11]
                m, n = (weight * p).sum(), (weight * q).sum()
                v, w = (weight * (p - m) ** 2).sum(), (weight * (q - n) ** 2).sum()
                cov = (weight * (p - m) * (q - n)).sum()
                top = (2 * m * n + 1e-4) * (2 * cov + 9e-4)
                values.append((top / ((m * m + n * n + 1e-4) * (v + w + 9e-4))).item())
    return sum(values) / len(values)


def test_ssim_matches_a_naive_loop_over_windows() -> None:
    real, fake = pair(0, 2, 3, 14, 13)
    expected = torch.tensor([naive_ssim(x, y) for x, y in zip(real, fake, strict=True)])
    assert_close(ssim(real, fake).float(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [(11, 11), (40, 23)])
def test_ssim_is_that_of_torchmetrics_within_the_frame(size: tuple[int, int]) -> None:
    real, fake = pair(5, 3, 3, *size)
    _, places = structural_similarity_index_measure(
        real.float().div(255).double(),
        fake.float().div(255).double(),
        data_range=1.0,
        return_full_image=True,
    )
    expected = places[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
    assert_close(ssim(real, fake), expected, rtol=0, atol=5e-10)


def test_psnr_matches_a_naive_loop_over_frames() -> None:
    real, fake = pair(1, 2, 3, 3, 4, 5)
    for b in range(2):
        for f in range(3):
            error = ((real[b, f].double() - fake[b, f].double()) ** 2).mean().item()
            expected = 20 * math.log10(255 / math.sqrt(error))
            assert psnr(real, fake)[b, f].item() == pytest.approx(expected, rel=1e-5)


def test_equal_frames_score_highest_and_finite() -> None:
    real, _ = pair(2, 2, 3, 12, 12)
    assert_close(psnr(real, real), torch.full((2,), 100.0))
    assert_close(ssim(real, real), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("function", [psnr, ssim])
def test_metrics_average_frames_however_they_are_batched(function: Callable) -> None:
    real, fake = pair(3, 5, 2, 3, 12, 11)
    metric = FrameMean(function)
    expected = function(real.flatten(0, 1), fake.flatten(0, 1)).double().mean()
    metric.update(real[:3], fake[:3])
    metric = pickle.loads(pickle.dumps(metric))
    metric.update(real[3:], fake[3:])
    assert metric.compute().dtype == torch.float64
    assert_close(metric.compute(), expected, rtol=1e-6, atol=0)


def test_floats_are_refused() -> None:
    with pytest.raises(ValueError, match=r"take uint8 videos .* torch.float32; convert"):
        psnr(torch.rand(2, 3, 12, 12), torch.rand(2, 3, 12, 12))


def test_frames_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="11 x 11 pixels or more, but these have 10 x 16"):
        ssim(*pair(4, 1, 3, 10, 16))
