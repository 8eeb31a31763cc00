import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ardiffusion.nn.attention import Attention, attend, attend_by_products


def naive_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    q, k, v = (x.detach().double() for x in (q, k, v))
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=torch.float64)
    for b, h, n in torch.cartesian_prod(*(torch.arange(size) for size in q.shape[:3])).tolist():
        seen = [m for m in range(k.shape[2]) if mask[n, m]]
        weights = [math.exp(q[b, h, n] @ k[b, h, m] / math.sqrt(q.shape[-1])) for m in seen]
        for m, weight in zip(seen, weights, strict=True):
            out[b, h, n] += weight / sum(weights) * v[b, h, m]
    return out


def random_heads(*, dtype: torch.dtype, queries: int = 5, keys: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, queries, 4), (2, 3, keys, 4), (2, 3, keys, 4)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    ]


@pytest.mark.parametrize("function", [attend, attend_by_products])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_matches_naive_softmax(function: Callable[..., Tensor], masked: bool) -> None:
    q, k, v = random_heads(dtype=torch.float64)
    mask = torch.ones(5, 7, dtype=torch.bool).tril() if masked else torch.ones(5, 7).bool()
    out = function(q, k, v, mask=mask if masked else None)
    torch.testing.assert_close(out, naive_attention(q, k, v, mask))


def test_bfloat16_stays_close_to_float64_forward_and_backward() -> None:
    mask = torch.ones(5, 7, dtype=torch.bool).tril()
    rounded = [x.requires_grad_() for x in random_heads(dtype=torch.bfloat16)]
    exact = [x.detach().double().requires_grad_() for x in rounded]
    out, reference = attend(*rounded, mask=mask), naive_attention(*exact, mask=mask)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), reference, atol=3e-2, rtol=3e-2)
    out.square().sum().backward()
    attend(*exact, mask=mask).square().sum().backward()
    for a, b in zip(rounded, exact, strict=True):
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad.double(), b.grad, atol=1e-1, rtol=1e-1)


@pytest.mark.parametrize("mask", [None, torch.ones(5, 7, dtype=torch.bool).tril()])
def test_float32_queries_meet_bfloat16_values_under_autocast(mask: Tensor | None) -> None:
    q, k, v = random_heads(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attend(q, k, v.bfloat16(), mask=mask)
    torch.testing.assert_close(out.float(), attend(q, k, v, mask=mask), atol=3e-2, rtol=3e-2)


def test_module_projects_cross_inputs_with_the_packed_weights() -> None:
    torch.manual_seed(0)
    attention = Attention(width=12, heads=3).double()
    q, k, v = torch.randn(2, 5, 12).double(), *torch.randn(2, 2, 7, 12).double()
    weights, biases = attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)
    heads = [
        torch.stack((x @ w.T + b).split(4, dim=-1), dim=1)
        for x, w, b in zip((q, k, v), weights, biases, strict=True)
    ]
    inner = naive_attention(*heads, mask=torch.ones(5, 7).bool())
    expected = attention.out(torch.cat(inner.unbind(1), dim=-1))
    torch.testing.assert_close(attention(q, k, v), expected)
    torch.testing.assert_close(attention(k, k, k), attention(k, k.clone(), k.clone()))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width 10 is not a multiple of heads 3"):
        Attention(width=10, heads=3)
