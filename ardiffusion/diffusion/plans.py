"""Plans: which frame takes which step in which iteration, as classes to choose from.

AR-Diffusion's AD schedule is the default; FIFO-Diffusion's diagonal lets a network without a
causal mask, trained on short clips, write long videos.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ardiffusion.diffusion.ad import Iteration, ad_rows, plan_rows


class Plan(ABC):
    """Says which frame takes which step in which iteration.

    Where `more_than_window` frames may be in flight, each row moves frames of one window, and is
    evaluated on those up to the last that moves.
    """

    more_than_window = False

    @abstractmethod
    def rows(
        self, frames: int | None, steps: int, window: int | None = None, given_frames: int = 0
    ) -> Iterator[Iteration]:
        """Yield the rows for F `frames` of S `steps` each; without end if frames are None.

        One evaluation of the network takes `window` frames, or any number if None. The first
        `given_frames` are clean from the start.
        """

    @abstractmethod
    def in_flight(self, frames: int | None, steps: int) -> int:
        """Return how many frames are in flight at the most."""

    def length(self, frames: int | None) -> int | None:
        """Return the length of the video where `frames` are asked for; None is without end."""
        return frames

    def describe(self) -> dict[str, Any]:
        return {"class": type(self).__name__, **vars(self)}


class AD(Plan):
    """The adaptive difference schedule: each frame follows its predecessor at a fixed distance.

    References:
        AR-Diffusion (Sun et al., CVPR 2025), section 3.4.

    Args:
        difference: Distance s in steps between neighbouring frames: 0 denoises all frames
            together, the number of steps one after the other.
    """

    def __init__(self, difference: int = 5) -> None:
        self.difference = difference

    def rows(
        self, frames: int | None, steps: int, window: int | None = None, given_frames: int = 0
    ) -> Iterator[Iteration]:
        return ad_rows(frames, steps=steps, difference=self.difference, ready=given_frames)

    def in_flight(self, frames: int | None, steps: int) -> int:
        return -(-steps // self.difference) if self.difference > 0 else frames or 0


class FIFO(Plan):
    """FIFO-Diffusion: a queue of S frames, one step apart, whose clean head makes room for noise.

    One iteration moves every frame of the queue by one step, in blocks from the tail to the head,
    each with one evaluation on as many frames as the network takes: the block and those before it,
    which have not moved yet (latent partitioning). With blocks of half the network's window every
    frame is denoised next to cleaner ones (lookahead denoising). A strictly causal network needs
    no blocks, and its queue is the AD schedule with a difference of 1.

    Published FIFO-Diffusion fills its queue with the re-noised frames of a clip that was generated
    synchronously, drops what comes of them and never empties it. Here the queue grows from pure
    noise frame by frame, so that the first frames of the video are denoised before noisier ones
    than the queue holds later, and it runs empty at the end of the video.

    References:
        FIFO-Diffusion: generating infinite videos from text without training (Kim et al., NeurIPS
        2024), sections 4.1 to 4.3.

    Args:
        block: Frames that one evaluation moves: half of the network's window if not given, which
            is lookahead denoising; the whole window is latent partitioning alone. Not for
            strictly causal networks.
    """

    more_than_window = True

    def __init__(self, block: int | None = None) -> None:
        if block is not None and block < 1:
            raise ValueError(f"FIFO's block must be at least 1 frame, got {block}.")
        self.block = block

    def rows(
        self, frames: int | None, steps: int, window: int | None = None, given_frames: int = 0
    ) -> Iterator[Iteration]:
        size = self.block_size(window)
        for row in ad_rows(frames, steps=steps, difference=1, ready=given_frames):
            yield from [row] if size is None else partition(row, size=size)

    def block_size(self, window: int | None) -> int | None:
        """Return how many frames an evaluation moves; None for all of them."""
        if window is None and self.block is not None:
            raise ValueError(
                f"FIFO's block of {self.block} frames does nothing for a strictly causal network, "
                "which moves all frames at once; leave it out."
            )
        if window is None:
            return None
        if self.block is not None and self.block > window:
            raise ValueError(
                f"FIFO's block of {self.block} frames is longer than the network's window of "
                f"{window}; use a block of at most {window}."
            )
        return self.block or max(window // 2, 1)

    def in_flight(self, frames: int | None, steps: int) -> int:
        return steps


class FixedPlan(Plan):
    """Any plan, written out as a table.

    Args:
        table: Step indices after each iteration, one list over the frames per iteration; 0 is
            pure noise, the number of steps is clean.
    """

    def __init__(self, table: Sequence[Sequence[int]]) -> None:
        if len({len(row) for row in table}) > 1:
            raise ValueError(
                "The rows of a table hold one step index for each frame: give all the same length."
            )
        self.table = [list(row) for row in table]

    def rows(
        self, frames: int | None, steps: int, window: int | None = None, given_frames: int = 0
    ) -> Iterator[Iteration]:
        size = (len(self.table), self.length(frames))
        table = torch.tensor(self.table, dtype=torch.int64).reshape(size)
        return plan_rows(table, steps=steps, ready=given_frames)

    def in_flight(self, frames: int | None, steps: int) -> int:
        return self.length(frames)

    def length(self, frames: int | None) -> int:
        length = len(self.table[0]) if self.table else frames or 0
        if frames not in (None, length):
            raise ValueError(
                f"The plan is for {length} frames, the video has {frames}: use --frames {length}."
            )
        return length


def partition(row: Iteration, size: int) -> Iterator[Iteration]:
    """Divide a row into rows that move `size` frames each, those of the tail first."""
    before = row.before
    for start in reversed(range(0, len(before), size)):
        end = start + size
        after = before[:start] + row.after[start:end] + before[end:]
        yield Iteration(first=row.first, before=before, after=after)
        before = after
