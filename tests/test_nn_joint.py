from pathlib import Path

import pytest
import torch
from naive_sampler import SCHEDULE, recompute
from torch import Tensor
from torch.testing import assert_close

from ardiffusion.diffusion.ad import ad_plan
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.hub import load_dit, save_pretrained
from ardiffusion.nn.dit import ARDiT, DiTBlock
from ardiffusion.nn.joint import Bidirectional, JointDiT
from ardiffusion.sources import from_checkpoint
from ardiffusion.weights.description import build, describe

SIZES = {"width": 16, "depth": 2, "heads": 2, "tokens": 3, "channels": 4}


def lively(net: ARDiT) -> ARDiT:
    """Let every parameter act, in float64 (zero gates would hide faults)."""
    torch.manual_seed(0)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return net.double().eval()


def tiny(window: int = 5, classes: int = 0) -> JointDiT:
    net = lively(JointDiT(**SIZES, window=window, classes=classes))
    assert isinstance(net, JointDiT)
    return net


def inputs(frames: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, frames, 3, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(1000, size=(batch, frames), generator=generator)


def naive_forward(net: ARDiT, x_t: Tensor, t: Tensor) -> Tensor:
    """Recompute clips with one softmax over all their tokens."""
    batch, frames, tokens, _ = x_t.shape

    def norm(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, False, keepdim=True) + 1e-6).sqrt()

    def rms(x: Tensor, weight: Tensor) -> Tensor:
        return weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def turn(x: Tensor) -> Tensor:
        """Rotate (B, F, L, h, d) as complex numbers."""
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        rate = 1e4 ** (-torch.arange(0, x.shape[-1], 2).double() / x.shape[-1])
        angle = torch.arange(frames).double()[:, None] * rate  # (F, d / 2)
        turned = pairs * torch.exp(1j * angle)[:, None, None]
        return torch.view_as_real(turned).flatten(-2)

    c = torch.nn.functional.silu(net.time(t))[:, :, None]  # (B, F, 1, D)
    x = net.embed(x_t) + net.position
    for block in net.blocks:
        assert isinstance(block, DiTBlock)
        b1, s1, g1, b2, s2, g2 = block.modulation(c).chunk(6, dim=-1)
        qkv = block.attention.qkv(norm(x) * (1 + s1) + b1)
        q, k, v = qkv.reshape(batch, frames, tokens, 3, net.heads, -1).unbind(3)
        q, k = (
            turn(rms(q, block.attention.q_norm.weight)),
            turn(rms(k, block.attention.k_norm.weight)),
        )
        q, k, v = (a.reshape(batch, frames * tokens, net.heads, -1) for a in (q, k, v))
        score = torch.einsum("bnhd,bmhd->bhnm", q, k) / q.shape[-1] ** 0.5
        weight = score.exp() / score.exp().sum(-1, keepdim=True)
        mixed = torch.einsum("bhnm,bmhd->bnhd", weight, v).reshape(x.shape)
        x = x + g1 * block.attention.out(mixed)
        x = x + g2 * block.mlp(norm(x) * (1 + s2) + b2)
    shift, scale = net.modulation(c).chunk(2, dim=-1)
    return net.out(norm(x) * (1 + scale) + shift)


@torch.no_grad()
def test_forward_matches_a_naive_softmax_over_all_tokens() -> None:
    net = tiny()
    for frames in (1, 2, 5):
        x, t = inputs(frames, batch=2)
        assert_close(net(x, t), naive_forward(net, x, t), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_weights_are_those_of_ardit_and_one_frame_is_the_same() -> None:
    net, causal = tiny(classes=3), lively(ARDiT(**SIZES, window=5, classes=3))
    assert list(net.state_dict()) == list(causal.state_dict())
    causal.load_state_dict(net.state_dict())
    x, t = inputs(frames=1, batch=2)
    label = torch.tensor([2, -1])
    assert_close(net(x, t, label=label), causal(x, t, label=label), rtol=1e-12, atol=1e-12)
    x, t = inputs(frames=3)
    assert not torch.allclose(net(x, t)[:, 0], causal(x, t)[:, 0])
    assert (net.strictly_causal, net.conditional) == (False, True)


def test_every_frame_depends_on_every_other() -> None:
    net = tiny()
    x, t = inputs(frames=4)
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x, t), x)
    effect = jacobian.abs().amax(dim=(0, 2, 3, 4, 6, 7))  # (frame out, frame in)
    assert (effect > 0).all()


def test_clips_longer_than_the_window_are_refused() -> None:
    net = tiny(window=3)
    x, t = inputs(frames=4)
    with pytest.raises(ValueError, match="sees 3 frames at once, got 4: use clips of at most 3"):
        net(x, t)
    with pytest.raises(ValueError, match="sees 3 frames at once"):
        net(x, t, cache=net.make_cache(1, 4, x.device))


@torch.no_grad()
def test_a_run_keeps_no_keys_and_values() -> None:
    net = tiny(classes=3)
    x, t = inputs(frames=3, batch=2)
    label, null = torch.tensor([2, 0]), torch.tensor([False, True])
    cache = net.make_cache(2, 3, x.device, timesteps=t.unique(), label=label, null=null)
    expected = net(x, t, label=label, null=null)
    for _ in range(2):
        assert_close(net(x, t, cache=cache), expected, rtol=1e-12, atol=1e-12)
        cache.advance(1)
    assert isinstance(cache, Bidirectional) and cache.conditions is not None
    assert set(vars(cache)) == {"window", "conditions", "blocks"}
    assert net.make_cache(2, 3, x.device, timesteps=torch.arange(2000)).conditions is None


def test_it_reads_back_from_folders_and_checkpoints(tmp_path: Path) -> None:
    net = tiny(classes=2, window=4).float()
    save_pretrained(net, tmp_path)
    state = {f"dit.{name}": value for name, value in net.state_dict().items()}
    checkpoint = {"state_dict": state, "networks": {"dit": describe(net)}}
    for found in (load_dit(tmp_path), from_checkpoint(checkpoint)["dit"]):
        assert type(found) is JointDiT and describe(found) == describe(net)
        assert_close(found.state_dict(), net.state_dict(), rtol=0, atol=0)
    assert type(build(describe(net))) is JointDiT


@torch.no_grad()
def windowed(net: ARDiT, x: Tensor, plan: Tensor, steps: int) -> Tensor:
    """Sample along a plan, evaluating the window that ends at the last frame that has started."""
    tau = [-(-(steps - k) * 100 // steps) - 1 for k in range(steps)] + [0]
    abar = [SCHEDULE.alphas_cumprod[tau[k]].item() for k in range(steps)] + [1.0]
    x, frames, before = x.clone(), x.shape[1], [0] * x.shape[1]
    for after in plan.tolist():
        end = max(sum(k > 0 for k in after), min(net.window, frames))
        start = max(end - net.window, 0)
        t = torch.tensor([tau[k] for k in before[start:end]]).expand(len(x), -1)
        out = net(x[:, start:end].clone(), t)
        for f in range(start, end):
            if after[f] > before[f]:
                a, s, x_0 = abar[before[f]], abar[after[f]], out[:, f - start]
                eps = (x[:, f] - a**0.5 * x_0) / (1 - a) ** 0.5
                x[:, f] = s**0.5 * x_0 + (1 - s) ** 0.5 * eps
        before = after
    return x


@pytest.mark.parametrize("static", [False, True])
def test_sampler_equals_naive_loops_together_and_window_by_window(static: bool) -> None:
    net, x = tiny(), inputs(frames=5, batch=2)[0]
    together = Sampler(SCHEDULE, steps=6, difference=0, static=static).sample(net, x)
    plan = ad_plan(5, steps=6, difference=0)
    assert_close(together, recompute(net, x, plan, steps=6), rtol=1e-10, atol=1e-10)
    x = inputs(frames=12, batch=2)[0]
    apart = Sampler(SCHEDULE, steps=20, difference=5, static=static).sample(net, x)
    plan = ad_plan(12, steps=20, difference=5)
    assert_close(apart, windowed(net, x, plan, steps=20), rtol=1e-10, atol=1e-10)
