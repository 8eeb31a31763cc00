"""A tiny network to save, serve and load, and what it takes to compare two of them."""

from pathlib import Path

import torch
from torch import nn

from ardiffusion.hub import save_pretrained
from ardiffusion.nn.dit import ARDiT


def tiny(seed: int = 0) -> ARDiT:
    torch.manual_seed(seed)
    net = ARDiT(width=16, depth=1, heads=2, tokens=3, classes=2)
    for p in net.parameters():
        nn.init.normal_(p)
    return net


def files(net: nn.Module, folder: Path) -> dict[str, bytes]:
    save_pretrained(net, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    assert type(one) is type(other)
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
