import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ardiffusion.metrics.moments import moments


def features() -> Tensor:
    return torch.randn(30, 5, generator=torch.Generator().manual_seed(0)) * 3 + 10


@pytest.mark.parametrize("ddof", [0, 1])
def test_matches_numpy(ddof: int) -> None:
    x = features()
    mean, covariance = moments(x, ddof=ddof)
    assert mean.dtype == covariance.dtype == torch.float64
    assert_close(mean.numpy(), x.double().numpy().mean(axis=0), rtol=1e-12, atol=0)
    assert_close(covariance.numpy(), np.cov(x.double().numpy().T, ddof=ddof), rtol=1e-9, atol=1e-9)


def test_counts_repeat_rows() -> None:
    counts = torch.randint(0, 4, (30,), generator=torch.Generator().manual_seed(1))
    repeated = features().repeat_interleave(counts, dim=0)
    for found, expected in zip(
        moments(features(), ddof=1, counts=counts), moments(repeated, ddof=1), strict=True
    ):
        assert_close(found, expected, rtol=1e-10, atol=1e-10)
