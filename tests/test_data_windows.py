from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ardiffusion.data.spans import Spans
from ardiffusion.data.windows import (
    BrokenData,
    EveryWindow,
    FrameSpan,
    RandomWindows,
    draw,
    every_start,
    extent,
)


class Names:
    """Frames that are their numbers."""

    name = "video"
    place = Path("videos")

    def read(self, span: FrameSpan, first: int, frames: int, step: int) -> Tensor:
        if span.path == "broken.mp4":
            raise ValueError("broken.mp4 is broken.")
        return (torch.arange(span.frames) * span.stride + span.start)[first::step][:frames]


FILES = [FrameSpan("a.mp4", 90), FrameSpan("b.mp4", 33), FrameSpan("c.mp4", 3)]
FILES += [FrameSpan("d.mp4", 400)]
RUNS = [FrameSpan("v", 12, start=0), FrameSpan("v", 6, start=20)]


@pytest.mark.parametrize("length", [4, 5, 7, 8, 9, 20])
@pytest.mark.parametrize("frames", [1, 3, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_start_covers_the_grid_and_ends_at_the_last_frame(
    length: int, frames: int, stride: int
) -> None:
    starts = every_start(length, frames=frames, stride=stride)
    if length < extent(frames, stride):
        assert starts == []
        return
    seen = {start + i * stride for start in starts for i in range(frames)}
    assert seen.issuperset(range(0, length, stride))
    assert max(seen) == length - 1
    regular = list(range(0, length - extent(frames, stride) + 1, frames * stride))
    assert starts[: len(regular)] == regular
    assert len(starts) <= len(regular) + min(stride, 2)


@given(st.lists(st.integers(0, 60), max_size=9), st.integers(1, 7), st.integers(1, 5))
def test_windows_of_arrays_are_those_of_lists(
    lengths: list[int], frames: int, stride: int
) -> None:
    spans = [FrameSpan(f"{i // 2}", n, label=i, start=i) for i, n in enumerate(lengths)]
    assert list(Spans.of(spans)) == spans
    every = EveryWindow(Names(), Spans.of(spans), frames, stride)
    expected = [(s, first) for s in spans for first in every_start(s.frames, frames, stride)]
    assert every.keys() == [span.key(first) for span, first in expected]
    assert every.videos == len({span.path for span, _ in expected})
    assert [s.label for s in (every.spans[i] for i in range(len(spans)))] == [*range(len(spans))]


def test_draw_is_uniform_and_depends_on_all_it_is_given() -> None:
    draws = Counter(draw(4, seed=0, epoch=0, index=i) for i in range(4000))
    assert all(abs(draws[i] - 1000) < 130 for i in range(4))  # 4.7 sigma
    big = 2**60
    base = draw(big, seed=0, epoch=0, index=0)
    assert base == draw(big, seed=0, epoch=0, index=0)
    others = [draw(big, *args) for args in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert base not in others


def test_seeds_name_the_clips_that_they_always_named() -> None:
    every = EveryWindow(Names(), FILES, frames=8, stride=2)
    random = RandomWindows(every, clips_per_video=2, seed=7)
    assert " ".join(random[epoch, i]["key"] for epoch in (0, 5) for i in range(6)) == (
        "a.mp4:16 b.mp4:12 d.mp4:94 a.mp4:73 b.mp4:3 d.mp4:163 "
        "a.mp4:35 b.mp4:18 d.mp4:174 a.mp4:9 b.mp4:3 d.mp4:357"
    )
    torch.manual_seed(3)
    assert [random[i]["key"] for i in (0, 4)] == ["a.mp4:5", "b.mp4:12"]
    every.broken[1] = True
    assert [random[2, i]["key"] for i in (1, 4)] == ["d.mp4:11", "d.mp4:291"]
    runs = RandomWindows(EveryWindow(Names(), RUNS, frames=3), clips_per_video=8, seed=2)
    assert [int(runs[1, i]["key"][2:]) for i in range(8)] == [21, 2, 1, 0, 0, 3, 23, 5]


def test_spans_with_gaps_and_strides_are_windowed_alike() -> None:
    spans = [FrameSpan("v", 5, label=3, start=1, stride=2), FrameSpan("v", 3, start=20, stride=2)]
    every = EveryWindow(Names(), spans, frames=2, stride=4)
    found = [every[i] for i in range(len(every))]
    assert [(clip["key"], clip["video"].tolist()) for clip in found] == [
        ("v:1", [1, 5]),
        ("v:5", [5, 9]),
        ("v:20", [20, 24]),
    ]
    assert [int(clip["label"]) for clip in found] == [3, 3, -1]
    assert [list(clip) for clip in found] == [["video", "label", "key"]] * 3
    with pytest.raises(ValueError, match="holds every 2th frame, which stride 3 is no multiple"):
        EveryWindow(Names(), spans, frames=2, stride=3)


def test_reading_every_window_leaves_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    assert EveryWindow(Names(), FILES, frames=8)[0]["key"] == "a.mp4:0"
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("random", [False, True])
def test_nothing_readable_ends_with_a_sentence(random: bool) -> None:
    every = EveryWindow(Names(), [FrameSpan("broken.mp4", 30)] * 2, frames=4, may_break=1)
    with pytest.raises(BrokenData, match="No video under videos can be read: check the data"):
        (RandomWindows(every) if random else every)[0]
    with pytest.raises(IndexError):
        (RandomWindows(every) if random else every)[99]
