import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ardiffusion.nn.encoder import Encoder, ScrambledHead, TokenHead, patch_positions

SIZES: dict[str, Any] = {
    "resolution": 8,
    "patch": 4,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "channels": 3,
}


def test_positions_are_sines_and_cosines_of_row_and_column() -> None:
    table = patch_positions(side=3, width=8)
    for row in range(3):
        for column in range(3):
            angles = [[place, place / 100] for place in (row, column)]
            expected = [f(a) for pair in angles for f in (math.sin, math.cos) for a in pair]
            torch.testing.assert_close(table[3 * row + column], torch.tensor(expected))


def test_positions_need_a_width_that_splits_in_four() -> None:
    with pytest.raises(ValueError, match="width 10 is not a multiple of 4"):
        patch_positions(side=2, width=10)


def test_the_scrambled_head_rereads_memory() -> None:
    torch.manual_seed(0)
    head = ScrambledHead(width=6, channels=2).double()
    torch.nn.init.normal_(head.weight)
    y = torch.randn(2, 4, 6, dtype=torch.float64)
    expected = torch.zeros(2, 4, 4, dtype=torch.float64)
    for n in range(2):
        numbers = [value for token in y[n].tolist() for value in token]
        for token in range(4):
            column = torch.tensor([numbers[4 * k + token] for k in range(6)]).double()
            expected[n, token] = head.weight @ column + head.bias
    torch.testing.assert_close(head(y), expected)


def jacobian_of_head(head: TokenHead) -> Tensor:
    torch.nn.init.ones_(head.weight)
    y = torch.randn(1, 4, 8, requires_grad=True)
    (grad,) = torch.autograd.grad(head(y)[0, 1].sum(), y)
    return grad[0].abs().sum(dim=-1)


def test_only_the_scrambled_head_mixes_tokens() -> None:
    assert jacobian_of_head(TokenHead(width=8, channels=2)).count_nonzero() == 1
    assert jacobian_of_head(ScrambledHead(width=8, channels=2)).count_nonzero() == 4


def test_moments_begin_with_samples_close_to_means_of_unit_size() -> None:
    torch.manual_seed(0)
    encoder = Encoder(**SIZES, tokens=5)
    mean, logvar = encoder(torch.rand(64, 3, 8, 8)).chunk(2, dim=-1)
    assert mean.shape == (64, 5, 3)
    assert 0.5 < mean.std() < 2
    torch.testing.assert_close(logvar, torch.full_like(logvar, -4.0))
