"""What networks and tensors are as a whole of which each process has a share, by FSDP2."""

from typing import Any

from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def class_of(part: object) -> type:
    """Return the class that was called; FSDP2 puts one of its own in its place."""
    return next(kind for kind in type(part).__mro__ if not issubclass(kind, FSDPModule))


def whole(value: Any) -> Any:  # noqa: ANN401
    """Gather a tensor on the CPU if it is shared; all processes must ask."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value
