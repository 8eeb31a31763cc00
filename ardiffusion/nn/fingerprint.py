"""What tells the weights of two networks apart."""

import hashlib

import torch
from torch import nn

from ardiffusion.nn.shares import whole


def fingerprint(module: nn.Module) -> str:
    """Hash the names, shapes, types and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        tensor = torch.atleast_1d(whole(tensor.detach()).cpu()).contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
