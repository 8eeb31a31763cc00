import pytest
import torch
from torch import Tensor

from ardiffusion.nn.attention import causal_mask
from ardiffusion.nn.cache import KVCache, StaticCache
from ardiffusion.nn.dit import ARDiT, DiTBlock
from ardiffusion.nn.rotary import rotary_phases, rotate


def tiny(classes: int = 0, window: int = 3) -> ARDiT:
    """Build a float64 network whose every parameter acts (zero gates would hide faults)."""
    torch.manual_seed(0)
    net = ARDiT(
        width=16, depth=2, heads=2, tokens=3, channels=4, classes=classes, window=window
    ).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return net.eval()


def inputs(frames: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, frames, 3, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(1000, size=(batch, frames), generator=generator)


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 4), (3, 3), (2, 5)])
def test_block_causal_mask_matches_double_loop(queries: int, keys: int, window: int) -> None:
    mask = causal_mask(queries, keys, tokens=2, window=window, device=torch.device("cpu"))
    for i in range(2 * queries):
        for j in range(2 * keys):
            f, g = keys - queries + i // 2, j // 2
            allowed = mask is None or bool(mask[i, j])
            assert allowed == (f - window < g <= f)


def test_future_frames_do_not_change_the_past() -> None:
    net = tiny(window=3)
    x, t = inputs(frames=5)
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x, t), x)
    effect = jacobian.abs().amax(dim=(0, 2, 3, 4, 6, 7))  # (frame out, frame in)
    assert torch.equal(effect.triu(1), torch.zeros(5, 5).double())
    # two layers of a window of three frames see back four frames
    assert (effect.tril() > 0).sum() == 15


def test_future_timesteps_do_not_change_the_past() -> None:
    net = tiny()
    x, t = inputs(frames=4)
    later = t.clone()
    later[:, 3] += 1
    before, after = net(x, t), net(x, later)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3], after[:, 3])


def naive_forward(net: ARDiT, x_t: Tensor, t: Tensor) -> Tensor:
    """Recompute one clip token by token, head by head, from the formulas."""
    frames, tokens, heads, width = x_t.shape[0], 3, 2, 16

    def norm(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, False, keepdim=True) + 1e-6).sqrt()

    def turn(x: Tensor, f: int) -> Tensor:
        out = x.clone()
        for i in range(len(x) // 2):
            angle = torch.tensor(f * 1e4 ** (-2 * i / len(x)), dtype=torch.float64)
            a, b = x[2 * i], x[2 * i + 1]
            out[2 * i] = a * angle.cos() - b * angle.sin()
            out[2 * i + 1] = a * angle.sin() + b * angle.cos()
        return out

    def rms(x: Tensor, weight: Tensor) -> Tensor:
        return weight * x / (x.square().mean() + 1e-6).sqrt()

    place = [(f, m) for f in range(frames) for m in range(tokens)]
    c = [torch.nn.functional.silu(net.time(t[None])[0, f]) for f in range(frames)]
    x = {p: net.embed(x_t[p]) + net.position[p[1]] for p in place}
    for block in net.blocks:
        assert isinstance(block, DiTBlock)
        mod = [block.modulation(c[f]).chunk(6) for f in range(frames)]
        h = {p: norm(x[p]) * (1 + mod[p[0]][1]) + mod[p[0]][0] for p in place}
        qkv = {p: block.attention.qkv(h[p]).reshape(3, heads, width // heads) for p in place}
        for p in place:
            seen = [o for o in place if p[0] - net.window < o[0] <= p[0]]
            mixed = []
            for head in range(heads):
                q = turn(rms(qkv[p][0, head], block.attention.q_norm.weight), p[0])
                score = [
                    q @ turn(rms(qkv[o][1, head], block.attention.k_norm.weight), o[0])
                    for o in seen
                ]
                weight = (torch.stack(score) * (width // heads) ** -0.5).softmax(0)
                mixed.append(sum(w * qkv[o][2, head] for w, o in zip(weight, seen, strict=True)))
            x[p] = x[p] + mod[p[0]][2] * block.attention.out(torch.cat(mixed))
        for p in place:
            h_p = norm(x[p]) * (1 + mod[p[0]][4]) + mod[p[0]][3]
            x[p] = x[p] + mod[p[0]][5] * block.mlp(h_p)
    shift_scale = [net.modulation(c[f]).chunk(2) for f in range(frames)]
    out = [net.out(norm(x[p]) * (1 + shift_scale[p[0]][1]) + shift_scale[p[0]][0]) for p in place]
    return torch.stack(out).reshape(frames, tokens, 4)


@pytest.mark.parametrize("window", [1, 2, 3, 9])
def test_forward_matches_a_naive_loop_over_tokens(window: int) -> None:
    net = tiny(window=window)
    x, t = inputs(frames=5)
    with torch.no_grad():
        torch.testing.assert_close(
            net(x, t)[0], naive_forward(net, x[0], t[0]), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("tabulated", [False, True])
def test_cached_frames_equal_full_recomputation(static: bool, tabulated: bool) -> None:
    net = tiny(window=3)
    x, t = inputs(frames=9, batch=2)
    timesteps = t.unique() if tabulated else None
    cache = net.make_cache(2, frames=2, device=x.device, timesteps=timesteps, static=static)
    parts = []
    with torch.no_grad():
        for f in range(0, 8):
            # two frames at once, of which only the first is kept: the second comes again
            parts.append(net(x[:, f : f + 2], t[:, f : f + 2], cache=cache)[:, :1])
            cache.advance(1)
        torch.testing.assert_close(torch.cat(parts, dim=1), net(x, t)[:, :8], rtol=0, atol=1e-12)
    assert isinstance(cache, KVCache)
    assert cache.buffer.shape[4] == (2 + 2 if static else 2 * 2 + 2) * 3


@pytest.mark.parametrize("sink", [1, 2, 3])
def test_a_frame_sees_the_first_frames_and_the_latest(sink: int) -> None:
    net = tiny(window=4)
    net.blocks = net.blocks[:1]
    net.depth = 1  # a second layer would see further
    x, t = inputs(frames=9)

    def output(x: Tensor) -> Tensor:
        return net(x, t, cache=net.make_cache(1, frames=9, device=x.device, sink=sink))

    with torch.no_grad():
        before = output(x)
        for g in range(9):
            changed = x.clone()
            changed[:, g] += 1
            moved = (output(changed) != before).any(dim=3).any(dim=2)[0]
            seen = [g <= f and (g < sink or g > f - (4 - sink)) for f in range(9)]
            assert moved.tolist() == seen


@pytest.mark.parametrize("static", [False, True])
def test_first_frames_get_no_further_away_however_long_the_video(static: bool) -> None:
    net = tiny(window=4)
    x, t = inputs(frames=9)
    caches = [net.make_cache(1, 2, device=x.device, static=static, sink=2) for _ in range(2)]
    with torch.no_grad():
        for cache in caches:
            net(x[:, :2], t[:, :2], cache=cache)
            cache.advance(2)
            assert isinstance(cache, StaticCache) and cache.buffer.shape[4] == (3 + 2) * 3
        caches[0].position += 2  # the window is full from here on
        caches[1].position += 2 + 3 * 10**6  # a multiple of the slots of the latest frames
        for f in range(2, 9):
            near, far = (net(x[:, f : f + 1], t[:, f : f + 1], cache=cache) for cache in caches)
            torch.testing.assert_close(far, near, rtol=0, atol=1e-8)
            for cache in caches:
                cache.advance(1)


def test_tabulated_classes_equal_those_of_each_call() -> None:
    net = tiny(classes=3)
    x, t = inputs(frames=2, batch=4)
    label, null = torch.tensor([2, 0, 2, 1]), torch.tensor([False, True, True, False])
    cache = net.make_cache(4, 2, x.device, timesteps=t.unique(), label=label, null=null)
    assert cache.conditions is not None and len(cache.conditions.table) == 3  # none, 1 and 2
    with torch.no_grad():
        expected = net(x, t, label=label, null=null)
        torch.testing.assert_close(net(x, t, cache=cache), expected, rtol=1e-12, atol=1e-12)


def test_rotation_at_frame_100_000_is_as_exact_as_at_frame_10() -> None:
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    products = []
    for position in (10, 100_000):
        cos, sin = rotary_phases(position + torch.arange(3), width=8)
        q = rotate(x[0], cos=cos[0].float(), sin=sin[0].float())
        k = rotate(x[1], cos=cos[2].float(), sin=sin[2].float())
        products.append(q @ k)
    torch.testing.assert_close(products[0], products[1], rtol=1e-6, atol=1e-6)


def test_null_is_a_class_of_its_own() -> None:
    net = tiny(classes=3)
    x, t = inputs(frames=2, batch=2)
    label = torch.tensor([0, 2])
    with torch.no_grad():
        outs = [net(x, t, label=torch.full((2,), c)) for c in range(3)] + [net(x, t)]
        for i in range(4):
            for j in range(i):
                assert not torch.allclose(outs[i], outs[j])
        half = net(x, t, label=label, null=torch.tensor([True, False]))
        torch.testing.assert_close(half[0], outs[3][0])
        torch.testing.assert_close(half[1], outs[2][1])
        torch.testing.assert_close(net(x, t, label=label - 5), outs[3])


def test_a_new_network_predicts_zero_and_trains_every_parameter() -> None:
    torch.manual_seed(0)
    net = ARDiT(width=16, depth=2, heads=2, tokens=3, classes=2)
    x, t = (a.float() if a.is_floating_point() else a for a in inputs(frames=3))
    assert net(x, t).abs().max() == 0
    net = tiny(classes=2)
    x, t = inputs(frames=3, batch=2)
    net(x, t, label=torch.tensor([0, 1])).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0, name


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of twice the heads"):
        ARDiT(width=30, heads=4)
    with pytest.raises(ValueError, match="window must be at least 1"):
        ARDiT(width=32, heads=4, window=0)
