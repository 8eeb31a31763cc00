import pytest
import torch
from torch import Tensor, nn

from ardiffusion.training import muon
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


def test_hidden_matrices_follow_muon_and_the_rest_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "has_bfloat16", lambda: True)
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


def naive_step(p: Tensor, gradient: Tensor, average: Tensor, lr: float, decay: float) -> None:
    """Move a matrix by Muon, its average by a momentum of 0.95; all in float64."""
    average.copy_(0.95 * average + 0.05 * gradient)
    x = 0.05 * gradient + 0.95 * average
    x = x / torch.linalg.matrix_norm(x)
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
    p.copy_((1 - lr * decay) * p - lr * 0.2 * max(p.shape) ** 0.5 * x)


@pytest.mark.parametrize("shape", [(40, 40), (33, 70), (70, 33)])
def test_without_bfloat16_matrices_follow_muon_in_float32(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[bool, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    start, *gradients = torch.randn(4, *shape, generator=generator)
    for has in (False, True):
        monkeypatch.setattr(muon, "has_bfloat16", lambda has=has: has)
        p, rest = nn.Parameter(start.clone()), nn.Parameter(torch.ones(3))
        optimizer = Muon([p, rest], lr=0.1, weight_decay=0.5)
        for gradient in gradients:
            p.grad = gradient.clone()
            optimizer.step()
        found[has] = p.detach()
    exact, average = start.double(), torch.zeros(shape, dtype=torch.float64)
    for gradient in gradients:
        naive_step(exact, gradient.double(), average, lr=0.1, decay=0.5)
    torch.testing.assert_close(found[False].double(), exact, rtol=0, atol=2e-6)
    torch.testing.assert_close(found[True], found[False], rtol=0, atol=0.02)
    assert not torch.equal(found[True], found[False])


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
