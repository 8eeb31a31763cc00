import math

import pytest
import torch
from torch import Tensor

from ardiffusion.nn.published import PublishedDiT


def tiny(
    classes: int = 0,
    causal: bool = True,
    open_context: bool = True,
    rotary: bool = False,
    qk_norm: bool = False,
) -> PublishedDiT:
    """Build a float64 network whose every parameter acts (zero gates would hide faults)."""
    torch.manual_seed(0)
    net = PublishedDiT(
        width=16,
        depth=2,
        heads=2,
        tokens=3,
        frames=4,
        classes=classes,
        causal=causal,
        open_context=open_context,
        rotary=rotary,
        qk_norm=qk_norm,
        context=5,
        context_width=6,
    ).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return net.eval()


def inputs(frames: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, frames, 3, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(1000, size=(batch, frames), generator=generator)


def layer_norm(x: Tensor, eps: float) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt()


def sees(query: int, key: int, net: PublishedDiT) -> bool:
    """Say whether a token sees another: five context tokens, then three tokens per frame."""
    if key < 5:
        return True
    if query < 5:
        return net.open_context
    return not net.causal or (key - 5) // 3 <= (query - 5) // 3


def turned(x: Tensor, place: int) -> Tensor:
    """Rotate the pairs (2 i, 2 i + 1) of a head by place / 10000^(2 i / d)."""
    out = x.clone()
    for i in range(0, len(x), 2):
        angle = place / 10000 ** (i / len(x))
        out[i] = math.cos(angle) * x[i] - math.sin(angle) * x[i + 1]
        out[i + 1] = math.sin(angle) * x[i] + math.cos(angle) * x[i + 1]
    return out


def naive_attention(net: PublishedDiT, layer: int, tokens: list[Tensor]) -> list[Tensor]:
    """Attend token by token and head by head."""
    part = net.get_submodule(f"blocks.{layer}.attention")
    qkv = [part.get_submodule("qkv")(x).reshape(3, 2, 8) for x in tokens]
    outs = []
    for m in range(len(tokens)):
        heads = []
        for h in range(2):
            q, keys = qkv[m][0, h], [a[1, h] for a in qkv]
            if net.qk_norm:
                norm_q, norm_k = part.get_submodule("q_norm"), part.get_submodule("k_norm")
                q, keys = norm_q(q), [norm_k(k) for k in keys]
            if net.rotary:
                q, keys = turned(q, m), [turned(k, n) for n, k in enumerate(keys)]
            seen = [n for n in range(len(tokens)) if sees(m, n, net)]
            weight = torch.stack([(q @ keys[n]) / 8**0.5 for n in seen]).softmax(0)
            heads.append(sum((w * qkv[n][2, h] for w, n in zip(weight, seen, strict=True)), 0 * q))
        outs.append(part.get_submodule("out")(torch.cat(heads)))
    return outs


def naive_forward(net: PublishedDiT, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """Evaluate one sample token by token from the description of the published network."""
    tokens = [net.embed_context(c) for c in context]
    for p, token in enumerate(x.reshape(-1, 4)):
        angles = [p / 10000 ** (i / 8) for i in range(8)]
        place = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
        tokens.append(net.embed(token) + (0 if net.rotary else place))
    for layer in range(2):
        block = net.get_submodule(f"blocks.{layer}")
        six = block.get_submodule("modulation")(torch.nn.functional.silu(net.time(t)))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = six.reshape(-1, 6, 16).unbind(1)
        for shift, scale, gate in ((shift_a, scale_a, gate_a), (shift_m, scale_m, gate_m)):
            tokens = [layer_norm(v, eps=1e-6) for v in tokens]
            frame = [(n - 5) // 3 for n in range(len(tokens))]
            fed = [
                v * (1 + scale[f]) + shift[f] if f >= 0 else v
                for v, f in zip(tokens, frame, strict=True)
            ]
            attends = shift is shift_a
            mlp = block.get_submodule("mlp")
            made = naive_attention(net, layer, fed) if attends else [mlp(v) for v in fed]
            gated = [m * gate[f] if f >= 0 else m for m, f in zip(made, frame, strict=True)]
            tokens = [v + m for v, m in zip(tokens, gated, strict=True)]
    return torch.stack([net.out(layer_norm(v, eps=1e-6)) for v in tokens[5:]]).reshape(x.shape)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("open_context", [True, False])
@pytest.mark.parametrize(("rotary", "qk_norm"), [(False, False), (True, True), (True, False)])
def test_forward_matches_a_naive_loop_over_tokens(
    causal: bool, open_context: bool, rotary: bool, qk_norm: bool
) -> None:
    net = tiny(causal=causal, open_context=open_context, rotary=rotary, qk_norm=qk_norm)
    x, t = inputs(frames=3)
    with torch.no_grad():
        expected = naive_forward(net, x[0], t[0], context=net.condition.table)
        torch.testing.assert_close(net(x, t)[0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("open_context", [True, False])
def test_context_mask_matches_double_loop(causal: bool, open_context: bool) -> None:
    net = tiny(causal=causal, open_context=open_context)
    mask = net.mask(3, device=torch.device("cpu"))
    for query in range(14):
        for key in range(14):
            assert (mask is None or bool(mask[query, key])) == sees(query, key, net)


@pytest.mark.parametrize(("open_context", "leaks"), [(True, True), (False, False)])
def test_the_future_leaks_through_an_open_context_alone(open_context: bool, leaks: bool) -> None:
    net = tiny(open_context=open_context)
    x, t = inputs(frames=3)
    x.requires_grad_()
    net(x, t)[0, 0].sum().backward()
    assert x.grad is not None and x.grad[0, 0].abs().min() > 0
    assert bool(x.grad[0, 1:].abs().max() > 0) == leaks


def test_fewer_frames_take_the_first_positions() -> None:
    net = tiny(open_context=False)
    x, t = inputs(frames=4)
    with torch.no_grad():
        torch.testing.assert_close(net(x[:, :2], t[:, :2]), net(x, t)[:, :2])
        with pytest.raises(AssertionError):
            net(torch.cat([x, x], dim=1), torch.cat([t, t], dim=1))


def test_null_is_a_context_of_zeros_or_that_of_class_0() -> None:
    x, t = inputs(frames=2, batch=2)
    null, label = torch.tensor([True, False]), torch.tensor([2, 2])
    with torch.no_grad():
        net = tiny()
        half = net(x, t, null=null)
        torch.testing.assert_close(half[1], naive_forward(net, x[1], t[1], net.condition.table))
        zeros = torch.zeros(5, 6, dtype=torch.float64)
        torch.testing.assert_close(half[0], naive_forward(net, x[0], t[0], zeros))
        net = tiny(classes=3)
        half, zero = net(x, t, label=label, null=null), net(x, t, label=0 * label)
        torch.testing.assert_close(half[0], zero[0])
        assert not torch.allclose(half[1], zero[1])
        torch.testing.assert_close(net(x, t), zero)
        torch.testing.assert_close(net(x, t, label=label - 3), zero)


def test_a_new_network_predicts_zero_and_trains_every_parameter() -> None:
    net = PublishedDiT(width=16, depth=2, heads=2, tokens=3, frames=4, context=5, context_width=6)
    x, t = inputs(frames=3)
    assert net(x.float(), t).abs().max() == 0
    net = tiny(rotary=True, qk_norm=True)
    net(x, t).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0, name


def test_tabulated_modulations_change_nothing() -> None:
    net = tiny()
    x, t = inputs(frames=3)
    cache = net.make_cache(batch=1, frames=3, device=x.device, timesteps=t.unique())
    with torch.no_grad():
        torch.testing.assert_close(net(x, t, cache=cache), net(x, t), rtol=1e-12, atol=1e-12)


def test_odd_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of twice the heads"):
        PublishedDiT(width=30, heads=4)
