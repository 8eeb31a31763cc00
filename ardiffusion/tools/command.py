"""What the tools' command lines share: errors in one sentence, and the device to compute on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ardiffusion.training.messages import clear_messages


@contextmanager
def user_errors() -> Iterator[None]:
    """Print bad input as the sentence that its error is, and leave with exit code 2."""
    try:
        with clear_messages():
            yield
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def device_of(name: str) -> torch.device:
    """Return the device of a name.

    Raises:
        ValueError: If it is not there.
    """
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device is {name}, but PyTorch finds no GPU here; use cpu.")
    return device
