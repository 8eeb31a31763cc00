"""Nothing in a training step may wait for the device, or the device waits in turn."""

from typing import Any

import pytest
import torch
from stages import make_dit
from torch.utils._python_dispatch import TorchDispatchMode

from ardiffusion.nn.published import PublishedDiT
from ardiffusion.training.diffusion import DiffusionModule

DEVICE = torch.device("meta")  # has no numbers: to ask for one fails
pytestmark = pytest.mark.filterwarnings("ignore:Attribute")


class Copies(TorchDispatchMode):
    """Notes what moves tensors between devices."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in (*args, out) if isinstance(x, torch.Tensor) and x.ndim > 0]
        if len({x.device for x in tensors}) > 1:
            self.seen.append(str(func))
        return out


def step(module: DiffusionModule) -> None:
    x = torch.randn(2, 5, module.dit.tokens, 4, device=DEVICE)  # pyright: ignore[reportCallIssue, reportArgumentType]
    t = module.timesteps(2, 5, device=DEVICE)
    null = torch.rand(2, device=DEVICE) < 0.1
    label = torch.zeros(2, dtype=torch.long, device=DEVICE)
    loss = module.loss(x, label=label, t=t, noise=torch.randn_like(x), null=null, seen=x).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.dit.parameters(), 1.0)


@pytest.mark.parametrize("network", ["ARDiT", "PublishedDiT"])
def test_training_step_waits_for_nothing(network: str) -> None:
    published: dict[str, Any] = {
        "width": 16,
        "depth": 1,
        "heads": 2,
        "tokens": 2,
        "classes": 3,
        "context": 3,
    }
    dit = make_dit(classes=3) if network == "ARDiT" else PublishedDiT(**published)
    module = DiffusionModule(dit=dit.to(DEVICE), arvae="unused")
    step(module)  # moves the noise schedule's table
    with Copies() as copies:
        step(module)
    assert copies.seen == []


def test_copies_are_noticed() -> None:
    with Copies() as copies:
        torch.ones(3).to(DEVICE)
    assert copies.seen == ["aten._to_copy.default"]
    with pytest.raises((NotImplementedError, RuntimeError)):
        float(torch.ones(3, device=DEVICE).sum())
