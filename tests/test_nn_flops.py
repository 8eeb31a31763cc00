from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.flops import TRAINING, flops
from ardiffusion.nn.joint import JointDiT
from ardiffusion.nn.published import PublishedDiT

NETWORKS = {
    "ARDiT": lambda: ARDiT(width=64, depth=3, heads=2, tokens=8, classes=3),
    "shallow ARDiT": lambda: ARDiT(width=32, depth=1, heads=2, tokens=32, window=2),
    "JointDiT": lambda: JointDiT(width=64, depth=3, heads=2, tokens=8),
    "PublishedDiT": lambda: PublishedDiT(
        width=64, depth=3, heads=2, tokens=8, context=7, context_width=24
    ),
    "PublishedDiT that sees all": lambda: PublishedDiT(
        width=64, depth=2, heads=2, tokens=8, causal=False, rotary=True, qk_norm=True
    ),
}


def counted(call: Callable[[], Tensor]) -> int:
    # the fused kernel of a CPU is not in the counter's table, its two products are
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("frames", [1, 5, 16])
def test_forward_pass_is_counted_as_torch_counts_it(name: str, frames: int) -> None:
    dit = NETWORKS[name]()
    x, t = torch.randn(2, frames, dit.tokens, 4), torch.full((2, frames), 500)
    given = flops(dit, frames)
    assert given is not None
    assert 2 * given == counted(lambda: dit(x, t, label=torch.tensor([0, 0])))


@pytest.mark.parametrize("name", ["ARDiT", "PublishedDiT"])
def test_training_is_three_forward_passes(name: str) -> None:
    dit = NETWORKS[name]()
    x, t = torch.randn(2, 16, dit.tokens, 4), torch.full((2, 16), 500)
    given = flops(dit, 16)
    assert given is not None

    def train() -> Tensor:
        loss = dit(x, t, label=torch.tensor([0, 0])).square().mean()
        loss.backward()
        return loss

    assert counted(train) == pytest.approx(2 * TRAINING * given, rel=0.01)


def test_other_networks_are_not_guessed_at() -> None:
    assert flops(nn.Linear(3, 4), 16) is None
