"""Packed networks: in inference on a CPU they compute what the plain ones do, faster.

oneDNN multiplies by weights that lie as it likes, and takes a GELU along. In float32 that is up to
twice as fast as plain layers, whose products another library computes, and as exact.
"""

from copy import copy
from itertools import pairwise
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from ardiffusion.nn.cpu import has_bfloat16, has_onednn

Network = TypeVar("Network", bound=nn.Module)
ROWS = 32  # of the input, that the layout is best for; it serves any number
FEW = 8  # frames that do not win back the time of packing


def packed(network: Network, frames: int = FEW) -> Network:
    """Return a twin of a network for inference, good as long as its weights stay as they are.

    It shares all tensors, and packs a weight when first asked for it. Where nothing is gained, as
    for few `frames`, it is the network itself.
    """
    plain = network._compiled_call_impl is not None or asks_for_plain() or frames < FEW
    twin: Any = network if plain else pack(network)
    return twin


def asks_for_plain() -> bool:
    """Say whether something is at work that knows plain layers alone."""
    changing = torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return changing or torch.is_grad_enabled()


def pack(module: nn.Module) -> nn.Module:
    """Return a twin of a module, or the module itself if there is nothing in it to pack."""
    if module._forward_pre_hooks:  # as FSDP2 gathers weights by
        return module
    children: dict[str, Any] = {
        name: child and (PackedLinear(child) if packs(child) else pack(child))
        for name, child in module._modules.items()
    }
    if type(module) is nn.Sequential:
        for name, after in pairwise(list(children)):
            layer, gelu = children.get(name), children[after]
            if isinstance(layer, PackedLinear) and type(gelu) is nn.GELU:
                layer.take(children.pop(after))
    if all(children.get(name) is child for name, child in module._modules.items()):
        return module
    twin = copy(module)
    twin._modules = children
    return twin


def packs(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Say whether a module is a linear layer as torch made it that oneDNN has a way with."""
    if type(module) is not nn.Linear or type(module.weight) is not nn.Parameter:
        return False
    changed = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    if changed or module.weight.device.type != "cpu" or not has_onednn():
        return False
    half = module.weight.dtype == torch.bfloat16 and has_bfloat16()
    return half or module.weight.dtype == torch.float32


class PackedLinear(nn.Module):
    """A linear layer, and the GELU behind it if it takes one."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.plain = nn.Sequential(plain)
        self.weight, self.bias = plain.weight, plain.bias
        self.activation = ("none", [], "")
        self.packed: Tensor | None = None

    def take(self, gelu: nn.GELU) -> None:
        """Apply a GELU to what the layer returns."""
        self.plain.append(gelu)
        self.activation = ("gelu", [], gelu.approximate)

    def forward(self, x: Tensor) -> Tensor:
        if asks_for_plain():
            return self.plain(x)
        if self.packed is None:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, ROWS)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, *self.activation)
