"""The device that a tool computes on."""

import torch


def device_of(name: str) -> torch.device:
    """Return the device of a name.

    Raises:
        ValueError: If it is not there.
    """
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device is {name}, but PyTorch finds no GPU here; use cpu.")
    return device
