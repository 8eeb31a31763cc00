"""What linear layers are given, and how they begin."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.nn.arvae import ARVAE, PublishedARVAE
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.joint import JointDiT
from ardiffusion.nn.linear import linear
from ardiffusion.nn.published import PublishedDiT

SIZES: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2, "tokens": 3}
VAE: dict[str, Any] = {**SIZES, "resolution": 8, "patch": 4, "pixel_width": 4, "embedding": 6}
PUBLISHED: dict[str, Any] = {**SIZES, "frames": 4, "context": 2, "context_width": 5}


class LinearInputs(TorchFunctionMode):
    """Notes whether the inputs of linear layers are contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.contiguous: list[bool] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        if func is F.linear:
            self.contiguous.append(args[0].is_contiguous())
        return func(*args, **(kwargs or {}))


def encode_and_decode(arvae: ARVAE, batch: int) -> None:
    arvae.encode(torch.rand(batch, 3, 3, 8, 8))
    latents = torch.randn(batch, 4, 3, 5)[..., :4]  # not contiguous either
    arvae.decode(latents)
    list(arvae.stream_decode(latents.unbind(dim=1)))


def sample(net: ARDiT | PublishedDiT, batch: int) -> None:
    label = torch.zeros(batch).long() if net.classes else None
    x = torch.randn(batch, 7, 3, 4)
    for static in (False, True):
        guidance = 2.0 if net.conditional and static else 1.0
        sampler = Sampler(NoiseSchedule(), steps=4, difference=2, guidance=guidance, static=static)
        sampler.sample(net, x, label=label, prefix=x[:, :1])
    net(x[:, 1:4], torch.zeros(batch, 3).long(), label=label)


NETWORKS: dict[str, Callable[[int], None]] = {
    "ARVAE": lambda batch: encode_and_decode(ARVAE(**VAE), batch),
    "temporal ARVAE": lambda batch: encode_and_decode(
        ARVAE(**VAE, temporal=True, window=2), batch
    ),
    "PublishedARVAE": lambda batch: encode_and_decode(PublishedARVAE(**VAE), batch),
    "ARDiT": lambda batch: sample(ARDiT(**SIZES, classes=2, window=3), batch),
    "JointDiT": lambda batch: sample(JointDiT(**SIZES, window=4), batch),
    "PublishedDiT": lambda batch: sample(PublishedDiT(**PUBLISHED), batch),
    "PublishedDiT with classes": lambda batch: sample(PublishedDiT(**PUBLISHED, classes=2), batch),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_linear_layers_are_given_contiguous_inputs(name: str, batch: int) -> None:
    with torch.backends.mkldnn.flags(enabled=False), LinearInputs() as seen:  # nothing is packed
        NETWORKS[name](batch)
    assert len(seen.contiguous) > 20 and all(seen.contiguous)


def test_outputs_begin_as_large_as_asked_for() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 256)
    for gain in (0.0, 0.5, 2.0):
        layer = linear(256, 128, gain=gain)
        assert not layer.bias.any() and layer(x).std().item() == pytest.approx(gain, rel=0.05)
