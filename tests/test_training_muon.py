import pytest
import torch
from torch import nn

from ardiffusion.training.muon import Muon


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 40), nn.Linear(40, 40), nn.Linear(40, 3))


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.randn(8, 3, generator=generator)).square().mean().backward()
        optimizer.step()


def test_hidden_matrices_follow_muon_and_the_rest_adamw() -> None:
    network, twin = make_network(), make_network()
    train(network, Muon(network.parameters(), lr=0.01), steps=3)
    rest = [p for name, p in twin.named_parameters() if name != "1.weight"]
    matrix = torch.optim.Muon(
        [twin.get_parameter("1.weight")], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )
    others = torch.optim.AdamW(rest, lr=0.01, weight_decay=0.0)
    both = [matrix, others]
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        twin.zero_grad()
        twin(torch.randn(8, 3, generator=generator)).square().mean().backward()
        for optimizer in both:
            optimizer.step()
    torch.testing.assert_close(network.state_dict(), twin.state_dict(), rtol=0, atol=0)


def test_a_resumed_run_goes_on_as_if_never_stopped() -> None:
    whole, part = make_network(), make_network()
    train(whole, Muon(whole.parameters()), steps=6)
    first = Muon(part.parameters())
    generator = torch.Generator().manual_seed(1)
    for step in range(6):
        if step == 3:
            saved = first.state_dict()
            first = Muon(part.parameters())
            first.load_state_dict(saved)
        first.zero_grad()
        part(torch.randn(8, 3, generator=generator)).square().mean().backward()
        first.step()
    torch.testing.assert_close(whole.state_dict(), part.state_dict(), rtol=0, atol=0)


def test_a_schedule_moves_both_rates() -> None:
    optimizer = Muon(make_network().parameters(), lr=1.0)
    torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5)
    assert [part.param_groups[0]["lr"] for part in optimizer.parts] == [0.5, 0.5]


def test_networks_without_hidden_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match="AdamW"):
        Muon(nn.Linear(3, 3).parameters())
