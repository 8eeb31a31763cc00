"""Which frames of a long sequence make a clip: at random for training, all of them otherwise."""

import hashlib

import torch


def span(frames: int, stride: int) -> int:
    """Count the frames from the first to the last of a clip."""
    return (frames - 1) * stride + 1


def every_start(length: int, frames: int, stride: int) -> list[int]:
    """Cut a sequence into clips that follow each other, the last one ending at its last frame.

    With a stride the clips continue each other's grid of frames 0, stride, 2 stride, ... to its
    end, and one more clip leaves the grid if the last frame does not lie on it.
    """
    last = length - span(frames, stride)
    if last < 0:
        return []
    ends = {last // stride * stride, last}
    return sorted({*range(0, last + 1, frames * stride), *ends})


def draw(choices: int, seed: int, epoch: int, index: int) -> int:
    """Draw one of several choices, the same for a sample of an epoch wherever it is read."""
    name = f"{seed}/{epoch}/{index}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") % choices


def fresh_epoch() -> int:
    """Number an epoch that nobody counts, with torch's default generator."""
    return int(torch.randint(2**62, ()))
