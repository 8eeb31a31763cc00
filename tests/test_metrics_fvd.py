import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.testing import assert_close

from ardiffusion.metrics.features import Random3D
from ardiffusion.metrics.fvd import FrechetVideoDistance
from ardiffusion.metrics.i3d import I3DPretrained400, I3DTorchScript


class Means(nn.Module):
    """Mean colour and mean change of colour."""

    width = 6

    def forward(self, video: Tensor) -> Tensor:
        colour = video.float().mean(dim=(3, 4))
        return torch.cat([colour.mean(1), colour.diff(dim=1).abs().mean(1)], dim=1)


def videos(seed: int, count: int, high: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, high, (count, 4, 3, 5, 6), generator=generator, dtype=torch.uint8)


def distance(real: Tensor, fake: Tensor, batch: int = 4) -> Tensor:
    metric = FrechetVideoDistance(Means())
    for clips in real.split(batch):
        metric.update(real=clips)
    for clips in fake.split(batch):
        metric.update(fake=clips)
    return metric.compute()


def test_matches_float64_numpy_with_population_covariance() -> None:
    real, fake = videos(0, 40), videos(1, 30, high=200)
    x, y = (Means()(v).double().numpy() for v in (real, fake))
    cov1, cov2 = np.cov(x.T, ddof=0), np.cov(y.T, ddof=0)
    eigenvalues = np.linalg.eigvals(cov1 @ cov2).astype(np.complex128)
    overlap = float(np.real(np.sqrt(eigenvalues)).sum())
    shift = float(((x.mean(0) - y.mean(0)) ** 2).sum())
    expected = shift + float(np.trace(cov1) + np.trace(cov2)) - 2 * overlap
    result = distance(real, fake)
    assert result.dtype == torch.float64
    assert_close(result.item(), expected, rtol=1e-7, atol=0)


def test_zero_on_same_videos() -> None:
    real = videos(0, 12)
    assert distance(real, real.flip(0), batch=5).item() == pytest.approx(0, abs=1e-6)
    assert distance(real, 255 - real // 2).item() > 1


def test_is_batch_order_invariant() -> None:
    real, fake = videos(0, 17), videos(1, 13, high=200)
    turned = distance(real.flip(0), fake.roll(5, dims=0), batch=3)
    assert_close(turned, distance(real, fake, batch=17), rtol=1e-9, atol=0)


def test_updating_both_sides_at_once_equals_one_after_the_other() -> None:
    real, fake = videos(0, 8), videos(1, 8, high=200)
    metric = FrechetVideoDistance(Means())
    metric.update(real=real, fake=fake)
    assert_close(metric.compute(), distance(real, fake), rtol=1e-9, atol=0)


def test_reset_fake_keeps_the_real_videos() -> None:
    real, fake = videos(0, 8), videos(1, 8, high=200)
    metric = FrechetVideoDistance(Means())
    metric.update(real=real, fake=real)
    metric.compute()
    metric.reset_fake()
    metric.update(fake=fake)
    assert_close(metric.compute(), distance(real, fake), rtol=1e-9, atol=0)


def test_dropout_of_the_extractor_is_off_and_autocast_does_not_reach_it() -> None:
    extractor = nn.Sequential(Means(), nn.Linear(6, 4), nn.Dropout())
    metric = FrechetVideoDistance(extractor).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        metric.update(real=videos(0, 6), fake=videos(0, 6))
    features = extractor.eval()(videos(0, 6)).detach().double()
    assert_close(metric.real[0, 1:], features.sum(0))
    assert_close(metric.fake[1:, 1:], features.T @ features)


def test_a_pickled_metric_goes_on_where_it_was() -> None:
    metric = FrechetVideoDistance(Random3D(width=2))
    metric.update(real=videos(0, 5))
    copy = pickle.loads(pickle.dumps(metric))
    assert copy.counts() == (5, 0)
    for each in (metric, copy):
        each.update(real=videos(1, 3), fake=videos(2, 6))
    assert_close(copy.compute(), metric.compute(), rtol=0, atol=0)


def test_only_i3d_is_called_fvd() -> None:
    assert FrechetVideoDistance(I3DTorchScript()).name == "fvd"
    assert FrechetVideoDistance(I3DPretrained400()).name == "fvd"
    assert FrechetVideoDistance(Random3D()).name == "frechet_random3d"
    assert FrechetVideoDistance(Means()).name == "frechet_means"


def test_nothing_of_the_metric_enters_a_state_dict() -> None:
    assert not FrechetVideoDistance(Random3D()).state_dict()


@pytest.mark.parametrize("wrong", [videos(0, 2).float() / 255, videos(0, 2)[0], videos(0, 2).mT])
def test_refuses_what_is_no_uint8_video(wrong: Tensor) -> None:
    wrong = wrong if wrong.dtype.is_floating_point or wrong.ndim == 4 else wrong[:, :, :2]
    with pytest.raises(ValueError, match=r"takes uint8 videos .* convert them first\.$"):
        FrechetVideoDistance(Means()).update(real=wrong)


def test_refuses_to_compare_fewer_than_two_videos() -> None:
    with pytest.raises(ValueError, match="there are 5 and 1"):
        distance(videos(0, 5), videos(1, 1))


def merge(rank: int, folder: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", rendezvous, rank=rank, world_size=2)
    metric = FrechetVideoDistance(Means())
    # Shares differ in size, and the second process generates nothing.
    metric.update(real=[videos(0, 12)[:9], videos(0, 12)[9:]][rank])
    if rank == 0:
        metric.update(fake=videos(1, 7, high=200))
    assert metric.counts() == (12, 7)
    torch.save(metric.compute(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_score_as_one(tmp_path: Path) -> None:
    spawn(merge, args=(str(tmp_path),), nprocs=2)
    expected = distance(videos(0, 12), videos(1, 7, high=200))
    for rank in range(2):
        merged = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert_close(merged, expected, rtol=1e-9, atol=0)
