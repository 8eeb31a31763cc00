"""Whatever runs on a CPU runs on a device that knows no float64, with the same result."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
import torch
from float32_device import DEVICE, Float32Device
from torch import Tensor, nn
from torch.testing import assert_close

from ardiffusion.diffusion import timesteps as timesteps_module
from ardiffusion.diffusion.plans import AD, FIFO, Plan
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import DDIM, DPMSolver2M, PublishedDDIM, Solver
from ardiffusion.diffusion.target import Velocity
from ardiffusion.diffusion.timesteps import (
    FoPP,
    Independent,
    Mixture,
    NonDecreasing,
    PlanRows,
    Synchronous,
    Timesteps,
)
from ardiffusion.metrics.features import Random3D
from ardiffusion.metrics.frechet import feature_sums
from ardiffusion.metrics.image import ssim
from ardiffusion.metrics.kernel import kernel_distance
from ardiffusion.nn import rotary
from ardiffusion.nn.arvae import ARVAE, PublishedARVAE
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.joint import JointDiT
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.training.callbacks.fvd import FVDRec

Network = TypeVar("Network", bound=nn.Module)
SIZES: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2, "tokens": 3, "classes": 3}
NETWORKS: dict[str, Callable[[], ARDiT | PublishedDiT]] = {
    "ARDiT": lambda: ARDiT(**SIZES, window=4),
    "JointDiT": lambda: JointDiT(**SIZES, window=4),
    "PublishedDiT": lambda: PublishedDiT(**SIZES, frames=4, context=2, context_width=5),
    "rotary PublishedDiT": lambda: PublishedDiT(
        **SIZES, frames=4, context=2, context_width=5, rotary=True
    ),
}


@pytest.fixture(autouse=True)
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the device, which is one that every build of torch can name, for one of the others."""
    for module in (rotary, timesteps_module):
        assert DEVICE.type in module.FLOAT64
        others = [name for name in module.FLOAT64 if name != DEVICE.type]
        monkeypatch.setattr(module, "FLOAT64", others)


def lively(network: Network) -> Network:
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.requires_grad_(False)


def test_the_device_knows_no_float64() -> None:
    x = torch.randn(3, dtype=torch.float64)
    with Float32Device():
        for make in (lambda: x.to(DEVICE), lambda: torch.ones(2, device=DEVICE).double()):
            with pytest.raises(TypeError, match="does not support float64"):
                make()
        assert torch.arange(3, device=DEVICE).device == DEVICE


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(
    ("solver", "plan"), [(DDIM(eta=1.0), AD(2)), (DPMSolver2M(), FIFO()), (PublishedDDIM(), AD(2))]
)
def test_sampling_needs_no_float64(name: str, static: bool, solver: Solver, plan: Plan) -> None:
    net, x, label = lively(NETWORKS[name]()), torch.randn(2, 7, 3, 4), torch.tensor([2, 0])

    def sample(device: torch.device) -> Tensor:
        sampler = Sampler(
            NoiseSchedule(), solver=solver, steps=5, guidance=2.0, plan=plan, static=static
        )
        sampler.sink = 2 * (static and net.strictly_causal)
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        given = [a.to(device) for a in (x, label, x[:, :1])]
        latents = sampler.sample(
            net.to(device), given[0], given[1], prefix=given[2], generators=generators
        )
        assert latents.device == device
        return latents.cpu()

    expected = sample(torch.device("cpu"))
    with Float32Device():
        found = sample(DEVICE)
    assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "timesteps",
    [
        FoPP(),
        NonDecreasing(),
        Independent(),
        Synchronous(),
        PlanRows(),
        Mixture([FoPP(), PlanRows()], weights=[1.0, 2.0]),
    ],
)
def test_training_needs_no_float64(timesteps: Timesteps) -> None:
    schedule, net = NoiseSchedule(), lively(NETWORKS["ARDiT"]())
    x, noise = torch.randn(2, 64, 9, 3, 4)
    with Float32Device():
        t = timesteps(64, 9, generator=torch.Generator().manual_seed(0), device=DEVICE)
        assert t.device == DEVICE and t.dtype == torch.int64
        assert 0 <= t.cpu().min() and t.cpu().max() < 1000
        if not isinstance(timesteps, Independent):
            assert (t.cpu().diff(dim=1) >= 0).all()
        alpha, sigma = schedule.alpha_sigma(t, dtype=torch.float32)
        far = [a.to(DEVICE) for a in (x, noise)]
        target = Velocity().from_clean(*far, alpha=alpha, sigma=sigma).cpu()
        output = net.to(DEVICE)(schedule.add_noise(*far, t=t), t).cpu()
        t = t.cpu()
    alpha, sigma = schedule.alpha_sigma(t, dtype=torch.float32)
    assert torch.equal(target, Velocity().from_clean(x, noise, alpha=alpha, sigma=sigma))
    net = lively(NETWORKS["ARDiT"]())
    assert_close(output, net(schedule.add_noise(x, noise=noise, t=t), t), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [ARVAE, PublishedARVAE])
def test_decoding_needs_no_float64(kind: type[ARVAE]) -> None:
    sizes: dict[str, Any] = {
        "resolution": 8,
        "patch": 4,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "tokens": 3,
    }
    arvae = lively(kind(**sizes, pixel_width=4, codebook=8, embedding=6, temporal=True))
    video, latents = torch.rand(1, 3, 3, 8, 8), torch.randn(1, 3, 3, 4)
    expected = arvae.encode(video), arvae.decode(latents)
    with Float32Device(), torch.no_grad():
        arvae.to(DEVICE)
        found = arvae.encode(video.to(DEVICE)).cpu(), arvae.decode(latents.to(DEVICE)).cpu()
        streamed = [x.cpu() for x in arvae.stream_decode(latents.to(DEVICE).unbind(dim=1))]
    assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert_close(torch.stack(streamed, dim=1), expected[1], rtol=1e-4, atol=1e-4)


def test_scores_need_no_float64() -> None:
    real, fake = torch.randint(256, (2, 3, 3, 16, 16), dtype=torch.uint8)
    features = torch.randn(2, 6, 4)
    measures = (
        lambda to: ssim(to(real), to(fake)),
        lambda to: feature_sums(to(features[0])),
        lambda to: torch.tensor(kernel_distance(*map(to, features))),
    )
    for measure in measures:
        expected = measure(lambda x: x)
        with Float32Device():
            assert_close(measure(lambda x: x.to(DEVICE)), expected)


def test_reconstructions_are_scored_where_float64_is_known() -> None:
    scores = FVDRec(Random3D())
    scores.on_validation_epoch_start(cast(Any, None), cast(Any, SimpleNamespace(device=DEVICE)))
    assert {metric.device.type for metric in (scores.distance, *scores.frames.values())} == {"cpu"}
