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
from experiments.benchmarks.sample import frame_flops

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


def blocks_by_hand(width: int, depth: int, tokens: int, keys: int) -> int:
    """Count the blocks' products of so many tokens, each of which attends to so many."""
    linear = 3 * width**2 + width**2 + 4 * width**2 + 4 * width**2  # project, merge, MLP
    attention = 2 * width  # of a pair: its score, and the value that it weighs
    return 2 * depth * tokens * (linear + keys * attention)


def test_a_small_network_is_counted_as_by_hand() -> None:
    frames, tokens, width, depth = 4, 8, 64, 3
    dit = ARDiT(width=width, depth=depth, heads=2, tokens=tokens, window=16)
    embedding = 256 * width + width**2 + depth * 6 * width**2 + 2 * width**2  # of a timestep
    ends = 4 * width + width * 4  # of a token: in and out
    expected = 2 * frames * (embedding + tokens * ends)
    expected += blocks_by_hand(width, depth, tokens=frames * tokens, keys=frames * tokens)
    assert flops(dit, frames) == expected
    assert frame_flops(dit) == blocks_by_hand(width, depth, tokens=tokens, keys=16 * tokens)
    assert all(p.device.type == "cpu" for p in dit.parameters())


def test_long_clips_attend_a_window_at_a_time() -> None:
    dit = ARDiT(width=32, depth=1, heads=2, tokens=2, window=2)
    short, long = flops(dit, 2), flops(dit, 5)
    assert short is not None and long is not None
    per_frame = (short - blocks_by_hand(32, 1, tokens=4, keys=4)) // 2
    # frames 0 and 1, then 2 and 3 that also see 1, then 4 that also sees 3
    pairs = [(4, 4), (4, 6), (2, 4)]
    expected = sum(blocks_by_hand(32, 1, tokens=q, keys=k) for q, k in pairs)
    assert long == 5 * per_frame + expected


def test_other_networks_are_not_guessed_at() -> None:
    assert flops(nn.Linear(3, 4), 16) is None
