import random

import pytest

from ardiffusion.data.order import time_order


def sort(names: list[str]) -> tuple[list[str], bool]:
    """Order shuffled names."""
    shuffled = random.Random(0).sample(names, len(names))
    order, told = time_order(shuffled)
    return [shuffled[i] for i in order], told


CLEAR = {
    "one camera": [f"frame{i}_cam1" for i in range(1, 13)],
    "of a total": [f"frame_{i}_of_12" for i in range(1, 13)],
    "of a size": [f"{i}_256x256" for i in range(1, 13)],
    "seconds": [f"frame_{i * 0.04:.2f}" for i in range(60)],
    "shortest decimals": [f"t{i * 0.25:g}s" for i in range(60)],
    "decimals from 1.0 on": [f"t{1 + i * 0.05}"[:5] for i in range(3)],
    "versions": [f"v1.{i}" for i in range(1, 25)],
    "minutes and seconds": [f"{s // 60}_{s % 60:02d}" for s in range(10, 200, 10)],
    "dates": [f"2023-01-{d:02d}T{h:02d}-00" for d in (1, 2) for h in range(24)],
    "halves": [f"{i:05d}{half}" for i in range(5) for half in ("", "_5")],
    "hashes behind": [f"frame_{i:04d}.rf.{i * 7919 % 997:x}{i}" for i in range(12)],
    "hashes in front": [f"{h}_{i}" for i, h in enumerate(["a8f3", "03bc", "ff01", "9", "77aa"])],
    "shots": [f"shot{s}_{i:03d}" for s in (1, 2) for i in range(5)],
    "negative": [f"frame_{i}" for i in range(-5, 6)],
    "dashes": [f"clip -{i}" for i in range(1, 12)],
    "hexadecimal": [f"f_{i:02x}" for i in range(40)],
    "no padding": ["im1", "im2", "im10", "im100"],
    "a single one": ["cover"],
}


@pytest.mark.parametrize("kind", CLEAR)
def test_names_that_tell_the_order(kind: str) -> None:
    assert sort(CLEAR[kind]) == (CLEAR[kind], True)


DOUBTFUL = {
    "words": ["alpha", "beta", "gamma"],
    "two sequences": [f"flow_{axis}_{i:03d}" for axis in "xy" for i in range(5)],
    "one number twice": ["01", "1", "2"],
    "a copy": ["frame_1", "frame_1 (copy)", "frame_2"],
    "random numbers in front": [f"{r}_{i:04d}" for i, r in enumerate((881, 12, 457, 33, 999))],
    "and behind a constant": [f"c3_{r}_{i}" for i, r in enumerate((881, 12, 457, 33, 999))],
}


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_names_that_do_not_tell_are_ordered_as_well_as_can_be(kind: str) -> None:
    assert sort(DOUBTFUL[kind]) == (DOUBTFUL[kind], False)


def test_no_names_have_an_order() -> None:
    assert time_order([]) == ([], True)
