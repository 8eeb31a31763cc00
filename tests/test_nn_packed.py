import pickle
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.nn.arvae import ARVAE
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.packed import PackedLinear, packed

able = torch.backends.cpu.get_cpu_capability().startswith("AVX") and torch.backends.mkldnn.enabled
needs_onednn = pytest.mark.skipif(not able, reason="oneDNN does not serve this CPU")


def mlp(width: int = 96) -> nn.Sequential:
    torch.manual_seed(0)
    gelu = nn.GELU(approximate="tanh")
    return nn.Sequential(nn.Linear(width, 4 * width), gelu, nn.Linear(4 * width, width))


def off(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def count_packed(network: nn.Module) -> int:
    return sum(isinstance(module, PackedLinear) for module in network.modules())


@needs_onednn
@pytest.mark.parametrize("shape", [(96,), (0, 96), (2, 3, 96), (96, 40)])
@torch.no_grad()
def test_packed_layers_compute_what_plain_ones_do(shape: tuple[int, ...]) -> None:
    network, x = mlp(), torch.randn(shape)
    x = x.mT if shape[-1] != 96 else x  # with gaps
    twin = packed(network)
    assert [type(layer) for layer in twin] == [PackedLinear, PackedLinear]
    assert twin(x).shape == network(x).shape
    assert not x.numel() or off(twin(x), deepcopy(network).double()(x.double())) <= 2e-6


@needs_onednn
@torch.no_grad()
def test_bfloat16_is_no_less_exact_packed() -> None:
    network, x = mlp().bfloat16(), torch.randn(50, 96).bfloat16()
    exact = deepcopy(network).double()(x.double())
    assert off(packed(network)(x), exact) <= 1.05 * off(network(x), exact)


@needs_onednn
def test_samples_and_videos_are_those_of_plain_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    dit = ARDiT(width=48, depth=2, heads=2, tokens=4, channels=2)
    arvae = ARVAE(
        resolution=16, patch=8, width=32, depth=2, heads=2, tokens=4, channels=2, temporal=True
    )
    for weight in [*dit.parameters(), *arvae.parameters()]:
        nn.init.normal_(weight, std=0.2)
    noise, sampler = torch.randn(2, 5, 4, 2), Sampler(NoiseSchedule(), steps=4, difference=2)

    @torch.no_grad()
    def make() -> tuple[Tensor, ...]:
        latents = sampler.sample(dit, noise)
        frames = torch.stack([*arvae.stream_decode(noise.unbind(dim=1))], dim=1)
        return latents, frames, arvae.decode(noise), arvae.encode(arvae.decode(noise))

    calls, op = [], PackedLinear.forward
    monkeypatch.setattr(PackedLinear, "forward", lambda *a: calls.append(1) or op(*a))
    fast = make()
    assert calls
    monkeypatch.setattr("ardiffusion.nn.packed.asks_for_plain", lambda: True)
    assert [off(*pair) <= 2e-6 for pair in zip(fast, make(), strict=True)] == [True] * 4


@needs_onednn
@pytest.mark.parametrize("frames", [1, 7, 8])
@torch.no_grad()
def test_few_frames_do_not_wait_for_packing(monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    arvae = ARVAE(resolution=16, patch=8, width=32, depth=2, heads=2, tokens=4, channels=2)
    calls, op = [], PackedLinear.forward
    monkeypatch.setattr(PackedLinear, "forward", lambda *a: calls.append(1) or op(*a))
    for video in (torch.rand(1, frames, 3, 16, 16), torch.rand(frames, 1, 3, 16, 16)):
        arvae.decode(arvae.encode(video))
    assert bool(calls) == (frames >= 8)


@needs_onednn
def test_network_is_as_it_was() -> None:
    network, x = mlp(), torch.randn(5, 96)
    assert packed(network) is network  # there are gradients
    before = pickle.dumps(network)
    with torch.no_grad():
        twin = packed(network)
        twin(x)
    assert pickle.dumps(network) == before and count_packed(network) == 0
    grads = [torch.autograd.grad(net(x).sum(), [*network.parameters()]) for net in (network, twin)]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_other_layers_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(nn.Linear):
        pass

    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda *_: None)
    network = nn.Sequential(Own(4, 4), hooked, nn.Linear(4, 4, dtype=torch.float64))
    network.append(nn.Linear(4, 4, device="meta"))
    with torch.no_grad():
        assert packed(network) is network
        (compiled := mlp()).compile()
        assert packed(compiled) is compiled
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert packed(plain := mlp()) is plain
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
        assert packed(plain) is plain
