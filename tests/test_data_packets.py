import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ardiffusion.data.packets import PacketTable
from ardiffusion.data.streams import find_table, read_video
from ardiffusion.data.video import VideoReader, count_frames
from tests.test_data_streams import write
from tests.test_data_video import COUNT, encode

GOP = {"g": "6", "keyint_min": "6", "sc_threshold": "0", "bf": "2"}
VP9 = {"codec": "libvpx-vp9", "options": {"g": "6", "cpu-used": "8", "lag-in-frames": "6"}}
SPREAD = [i * i // 3 + i for i in range(COUNT)]


def x264(parameters: str) -> dict[str, Any]:
    return {"options": {"x264-params": f"keyint=6:min-keyint=6:scenecut=0:{parameters}"}}


def x265(parameters: str) -> dict[str, Any]:
    parameters = f"keyint=6:min-keyint=6:scenecut=0:log-level=none:{parameters}"
    return {"codec": "libx265", "options": {"x265-params": parameters}}


def shift_edit(path: Path, skip: int, duration: int) -> None:
    """Let the edit list of an MP4 begin so many ticks later and last so many milliseconds."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    start = int.from_bytes(data[at + 4 : at + 8], "big") + skip
    data[at : at + 8] = duration.to_bytes(4, "big") + start.to_bytes(4, "big")
    path.write_bytes(data)


def two_edits(path: Path) -> None:
    """Let an MP4, whose boxes end with those of its header, show two parts of its frames."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4
    entries = [(300, 1024), (300, 1024 + 14 * 512)]
    parts = b"".join(struct.pack(">3I", *entry, 65536) for entry in entries)
    data[at : at + 20] = struct.pack(">2I", 0, len(entries)) + parts
    for box in (b"moov", b"trak", b"edts", b"elst"):
        size = data.index(box) - 4
        data[size : size + 4] = (int.from_bytes(data[size : size + 4], "big") + 12).to_bytes(
            4, "big"
        )
    path.write_bytes(data)


def cut_front(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[len(data) // 3 // 188 * 188 :])


SEEKED = {
    "h264.mp4": {"options": GOP},
    "h264.mkv": {"options": GOP, "times": SPREAD},
    "pyramid.mov": x264("bframes=5:b-pyramid=normal:ref=5"),
    "short_gops.mp4": {"options": {**GOP, "g": "2", "keyint_min": "1"}},
    "late.mp4": {"options": GOP, "times": range(500, 500 + COUNT)},
    "negative.mp4": {"options": GOP, "times": range(-8, COUNT - 8)},
    "edited.mp4": {"options": GOP},
    "edited_in_a_gop.mp4": {"options": GOP},
    "hevc.mp4": x265("open-gop=0:bframes=2"),
    "vp9.webm": VP9,
    "alpha.webm": {**VP9, "pix_fmt": "yuva420p", "options": {"g": "6", "auto-alt-ref": "0"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"g": "6", "preset": "12"}},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}
DOUBTED = {
    "open_gops.mp4": (x264("open-gop=1:bframes=2"), "later frames refer to"),
    "intra_refresh.mkv": (x264("intra-refresh=1:bframes=0"), "later frames refer to"),
    "open_gops_hevc.mp4": (x265("bframes=2"), "is open"),
    "mpeg4.avi": ({"codec": "mpeg4", "options": {"g": "6", "bf": "2"}}, "container"),
    "mpeg4.mp4": ({"codec": "mpeg4", "options": {"g": "6", "bf": "2"}}, "codec"),
    "vp8.webm": ({"codec": "libvpx", "options": {"g": "6", "auto-alt-ref": "1"}}, "codec"),
    "cut.ts": ({"options": GOP}, "container"),
    "cut_in_the_middle.mp4": ({"options": GOP}, "cuts frames out"),
    "animation.gif": ({"codec": "gif", "pix_fmt": "rgb8"}, "container"),
}
KINDS = {**SEEKED, **{name: options for name, (options, _) in DOUBTED.items()}}
AFTER = {
    "edited.mp4": partial(shift_edit, skip=3 * 512, duration=800),
    "edited_in_a_gop.mp4": partial(shift_edit, skip=8 * 512, duration=600),
    "cut_in_the_middle.mp4": two_edits,
    "cut.ts": cut_front,
}


def decode(path: Path, report: Callable[[str], None] = print) -> Tensor:
    return torch.stack([get() for _, get in read_video(path, threads=False, report=report)])


@pytest.fixture(scope="module", params=KINDS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = encode(tmp_path_factory.mktemp("kinds") / request.param, **KINDS[request.param])
    AFTER.get(path.name, lambda _: None)(path)
    return path


def test_any_clip_is_that_of_a_full_decode(file: Path) -> None:
    whole, table = decode(file), find_table(file)
    reader = VideoReader(file, table)
    numbers = st.integers(0, len(whole) - 1)

    @settings(max_examples=25, derandomize=True)
    @given(start=numbers, frames=st.integers(1, 6), stride=st.integers(1, 4))
    def check(start: int, frames: int, stride: int) -> None:
        wanted = whole[start::stride][:frames]
        for each in (reader, VideoReader(file, table)):
            assert torch.equal(each.read(start, frames=len(wanted), stride=stride), wanted)

    check()
    assert count_frames(file) == len(whole)


def test_table_is_there_or_says_why_not(file: Path) -> None:
    table, count = find_table(file), len(decode(file))
    _, doubt = DOUBTED.get(file.name, ("", ""))
    assert len(table) == (0 if doubt else count)
    assert doubt in table.doubt and bool(doubt) == bool(table.doubt)


def test_reading_begins_at_the_key_frame_before_the_clip(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", options=GOP)
    table = find_table(path)
    assert table.entries.tolist() == [0, 6, 12, 18]
    for start in (5, 6, 17, COUNT - 1):
        number, _ = next(read_video(path, False, print, table=table, start=start))
        assert number == start // 6 * 6


@pytest.mark.parametrize("shift", [-512, 1, 512])
def test_table_of_another_file_does_no_harm(shift: int, tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", options=GOP)
    whole, table = decode(path), find_table(path)
    for wrong in (
        PacketTable(table.pts + shift, table.entries),
        PacketTable(table.pts, table.entries + shift // 512),
        PacketTable(table.pts[:-3], table.entries),
    ):
        for start in (0, 7, 20):
            assert torch.equal(VideoReader(path, wrong).read(start, frames=4), whole[start:][:4])


def test_damage_that_came_later_does_not_move_frames(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(256, size=(COUNT, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    path = write(tmp_path / "a.mp4", "libx264", noise, "yuv420p", gop_size=6)
    table, data, said = find_table(path), bytearray(path.read_bytes()), list[str]()
    with av.open(path) as file:
        packets = [(packet.pos, packet.size) for packet in file.demux(video=0)]
    for start, size in packets[8:14]:
        for at in range((start or 0) + size // 2, (start or 0) + size):
            data[at] ^= 255
    path.write_bytes(data)
    whole = decode(path, report=said.append)
    assert len(table.entries) > 3 and len(whole) == COUNT and said
    for start in range(COUNT - 3):
        assert torch.equal(VideoReader(path, table).read(start, frames=3), whole[start:][:3])


@given(
    st.lists(st.integers(0, 2**40), unique=True, min_size=1).map(sorted),
    st.lists(st.integers(0, 99), unique=True).map(sorted),
)
def test_packed_table_is_the_same(pts: list[int], entries: list[int]) -> None:
    table = PacketTable.unpack(PacketTable(pts, entries).pack())
    assert table.pts.tolist() == pts and table.entries.tolist() == entries
    assert len(PacketTable(range(0, 10**7, 512), range(0, 19531, 250)).pack()) < 300
