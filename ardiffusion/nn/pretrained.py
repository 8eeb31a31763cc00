"""Networks of other people, which a module computes with but does not own."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn


class Pretrained(nn.Module, ABC):
    """A module around a frozen network from a file; whoever uses it calls `load` once before.

    The network is hidden from nn.Module: no optimiser, checkpoint, moving average, mode or
    broadcast between processes may reach it. A copy has to load the file again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loaded: list[nn.Module] = []  # a list hides it

    @abstractmethod
    def read_network(self) -> nn.Module:
        """Read the network from its file, which is downloaded if need be."""

    def load(self) -> None:
        """Read the network unless it is there, so that a missing file is told before any work."""
        if not self._loaded:
            # Weights that a validation made in inference mode would be of no use to training.
            with torch.inference_mode(False):
                network = self.read_network().eval()
                for parameter in network.parameters():  # a TorchScript freezes no other way
                    parameter.requires_grad_(False)
            self._loaded.append(network)

    def network(self, device: torch.device | str) -> nn.Module:
        if not self._loaded:
            raise RuntimeError(f"{type(self).__name__} has no network yet: call its load() first.")
        with torch.inference_mode(False):
            return self._loaded[0].to(device)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": []}
