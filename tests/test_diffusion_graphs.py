import pytest
import torch
from torch import Tensor

from ardiffusion.diffusion.graphs import Graphs
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.nn.dit import ARDiT


def test_on_a_cpu_the_function_is_called_as_it_is() -> None:
    calls: list[int] = []

    def function(x: Tensor, y: Tensor) -> Tensor:
        calls.append(len(x))
        return x + y

    graphs = Graphs(function)
    for size in (2, 3, 2):
        x = torch.randn(size)
        torch.testing.assert_close(graphs(x, x), 2 * x)
    assert calls == [2, 3, 2]


@pytest.mark.gpu
def test_replays_compute_with_new_arguments() -> None:
    graphs = Graphs(lambda x, y: x * y + 1)
    for size in (2, 3, 2, 3):
        x, y = torch.randn(2, size, device="cuda")
        torch.testing.assert_close(graphs(x, y), x * y + 1)
    assert len(graphs.captured) == 2


@pytest.mark.gpu
@pytest.mark.parametrize(("guidance", "difference"), [(1.0, 0), (1.0, 3), (2.0, 5), (1.0, 10)])
def test_graphs_change_rounding_alone(guidance: float, difference: int) -> None:
    torch.manual_seed(0)
    net = ARDiT(width=64, depth=3, heads=2, tokens=4, classes=3, window=4).cuda().eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x, label = torch.randn(3, 12, 4, 4, device="cuda"), torch.tensor([0, 2, 1], device="cuda")
    outs = [
        Sampler(
            NoiseSchedule(), steps=10, difference=difference, guidance=guidance, static=static
        ).sample(net, x, label=label)
        for static in (False, True)
    ]
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-4, atol=1e-4)
