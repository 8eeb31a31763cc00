"""CUDA graphs: a function of fixed shapes becomes one launch instead of hundreds."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# The graph, where it reads its arguments, and its result.
Captured = tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]


class Graphs:
    """A function of tensors that is replayed as a CUDA graph, one per shape of its arguments.

    Whatever else it reads or writes must stay at its address: under autocast, whose copies of
    weights end with it, use no graph longer than that. On a CPU it is called as it is.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.pool: Any = None  # memory of all shapes, which are used in turn
        self.captured: dict[tuple[torch.Size, ...], Captured] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return what the function returns; a later call overwrites it."""
        if inputs[0].device.type != "cuda":
            return self.function(*inputs)
        key = tuple(x.shape for x in inputs)
        with torch.cuda.device(inputs[0].device):
            if key not in self.captured:
                self.captured[key] = self.capture(inputs)
            graph, places, result = self.captured[key]
            for place, x in zip(places, inputs, strict=True):
                place.copy_(x)
            graph.replay()
        return result

    def capture(self, inputs: tuple[Tensor, ...]) -> Captured:
        """Record one call."""
        places = [x.clone() for x in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.function(*places)  # libraries allocate and choose kernels in their first call
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Threads of data loaders may pin memory meanwhile, which is no business of this graph's.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            result = self.function(*places)
        self.pool = graph.pool()
        return graph, places, result
