"""A device that knows no float64, as Apple's GPUs: its tensors say so, and compute on the CPU."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("meta")  # one that every build of torch can talk about


class Far(Tensor):
    """A tensor on the device; `near` holds its numbers."""

    near: Tensor

    def __new__(cls: type["Far"], near: Tensor) -> "Far":
        if near.dtype == torch.float64:
            raise TypeError(f"{DEVICE} does not support float64.")
        far = torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, near.shape, strides=near.stride(), dtype=near.dtype, device=DEVICE
        )
        far.near = near
        return far

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        return compute(func, args, kwargs or {})


class Float32Device(TorchDispatchMode):
    """Lets functions that make tensors make them on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
    """Compute on the CPU, and say where the results live."""
    far = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Far)]
    asked = kwargs.get("device")
    kwargs = {**kwargs, "device": torch.device("cpu")} if asked == DEVICE else kwargs
    near_args, near_kwargs = tree_map_only(Far, lambda x: x.near, (args, kwargs))
    result = func(*near_args, **near_kwargs)
    if asked != DEVICE and (asked is not None or not far):
        return result
    same = {id(x.near): x for x in far}  # what was changed in place stays itself
    return tree_map_only(Tensor, lambda x: same[id(x)] if id(x) in same else Far(x), result)
