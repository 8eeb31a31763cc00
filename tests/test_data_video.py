import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image
from torch import Tensor

from ardiffusion.data import video as video_module
from ardiffusion.data.video import VideoReader, count_frames, read_frames

COUNT = 24
Encode = Callable[..., Path]


def barcode(index: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Show the six bits of the index as black and white columns, over a red bottom row."""
    bits = [(index >> bit) & 1 for bit in range(6)]
    columns = [bits[min(x * 6 // width, 5)] * 255 for x in range(width)]
    picture = np.repeat(np.array(columns, np.uint8)[None, :, None], height, 0).repeat(3, 2)
    picture[-height // 4 :] = (255, 0, 0)
    return np.ascontiguousarray(picture)


def indices(video: Tensor) -> list[int]:
    width = video.shape[-1]
    row = video[:, :, video.shape[-2] // 2].double().mean(1)
    bits = [row[:, int((bit + 0.5) * width / 6)] > 127 for bit in range(6)]
    return [sum(int(b[f]) << i for i, b in enumerate(bits)) for f in range(len(video))]


def encode(
    path: Path,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (64, 96),
    times: Sequence[int] = range(COUNT),
    options: dict[str, str] | None = None,
    container: str | None = None,
) -> Path:
    with av.open(path, "w", format=container) as file:
        stream = file.add_stream(codec, rate=Fraction(25), options=options or {})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        for index in range(COUNT):
            frame = VideoFrame.from_ndarray(barcode(index, *size), format="rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts = times[index]
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


KINDS = {
    "h264_b_frames.mp4": {"options": {"bf": "3", "g": "9"}},
    "mpeg4_b_frames.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "10"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}},
    "vp8_hidden_frames.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1"}},
    "matroska.mkv": {"options": {"bf": "2"}},
    "animation.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "odd_size.mkv": {"codec": "ffv1", "size": (63, 95)},
    "late_start.mp4": {"times": range(17, 17 + COUNT)},
    "ten_bit_h264.mp4": {"pix_fmt": "yuv420p10le"},
    "ten_bit_hevc.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
    "name with #100%d:.mp4": {},
}


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_the_ones_asked_for(name: str, tmp_path: Path) -> None:
    path = encode(tmp_path / name, **KINDS[name])
    height, width = KINDS[name].get("size", (64, 96))
    assert count_frames(path) == COUNT
    video = read_frames(path)
    assert video.shape == (COUNT, 3, height, width)
    assert video.dtype == torch.uint8
    assert indices(video) == list(range(COUNT))
    assert indices(read_frames(path, start=7, frames=5, stride=3)) == [7, 10, 13, 16, 19]
    assert indices(read_frames(path, start=COUNT - 1)) == [COUNT - 1]
    red = video[:, :, -4, width // 2].double().mean(0)
    assert red[0] > 200 and red[1:].max() < 60


def test_reader_gives_the_same_frames_in_any_order_of_clips(tmp_path: Path) -> None:
    reader = VideoReader(encode(tmp_path / "clip.mp4", options={"bf": "3"}))
    for start, frames, stride in [
        (0, 4, 1),
        (4, 4, 2),
        (20, 4, 1),
        (19, 5, 1),
        (2, 2, 3),
        (23, 1, 1),
    ]:
        expected = list(range(start, start + frames * stride, stride))
        assert indices(reader.read(start, frames=frames, stride=stride)) == expected
    with pytest.raises(ValueError, match=r"5 frames from frame 20 .* 4 are there"):
        reader.read(20, frames=5)
    assert indices(reader.read(21)) == [21, 22, 23]


def test_clips_that_follow_each_other_are_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    av_open = av.open
    reader = VideoReader(encode(tmp_path / "clip.mp4"))
    monkeypatch.setattr(av, "open", lambda *a, **k: (opened.append(a[0]), av_open(*a, **k))[1])
    for start in (0, 8, 16):
        reader.read(start, frames=8)
    assert len(opened) == 1


def test_relative_name_with_a_colon_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(tmp_path / "clip.mp4").rename(tmp_path / "http:clip.mp4")
    monkeypatch.chdir(tmp_path)
    assert count_frames("http:clip.mp4") == COUNT


def set_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Overwrite the display matrix in the track header of an MP4."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    for place, value in zip((0, 4, 12, 16), (a, b, c, d), strict=True):
        data[at + place : at + place + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((0, 1, -1, 0), lambda v: v.rot90(-1, (2, 3))),  # a phone held upright: 90 clockwise
        ((0, -1, 1, 0), lambda v: v.rot90(1, (2, 3))),
        ((-1, 0, 0, -1), lambda v: v.rot90(2, (2, 3))),
        ((-1, 0, 0, 1), lambda v: v.flip(3)),  # a selfie
    ],
)
def test_rotated_video_is_read_upright(
    matrix: tuple[int, int, int, int], turned: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    path = encode(tmp_path / "clip.mp4")
    plain = read_frames(path)
    set_matrix(path, *matrix)
    assert torch.equal(read_frames(path), turned(plain))


def test_frames_that_change_size_are_scaled_to_the_first(tmp_path: Path) -> None:
    small = encode(tmp_path / "a.h264", container="h264")
    large = encode(tmp_path / "b.h264", container="h264", size=(128, 192))
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    video = read_frames(both)
    assert video.shape == (2 * COUNT, 3, 64, 96)
    assert indices(video) == [*range(COUNT), *range(COUNT)]


def test_folder_of_pictures_is_a_video(tmp_path: Path) -> None:
    folder = tmp_path / "clip#000001#000012.mp4"  # TaiChi's folders look like files
    folder.mkdir()
    for index in range(12):
        height = 64 if index < 6 else 32
        Image.fromarray(barcode(index, height=height)).save(folder / f"v7_frames_{index}.png")
    (folder / "notes.txt").write_text("not a picture")
    assert count_frames(folder) == 12
    assert indices(read_frames(folder)) == list(range(12))
    assert indices(read_frames(folder, start=1, frames=3, stride=4)) == [1, 5, 9]


def test_picture_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(barcode(5)).save(tmp_path / "0.png", exif=exif)
    expected = torch.from_numpy(barcode(5)).permute(2, 0, 1).rot90(-1, (1, 2))
    assert torch.equal(read_frames(tmp_path)[0], expected)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:600])


def sound(path: Path) -> None:
    path.unlink()
    with av.open(path, "w") as file:
        stream = file.add_stream("aac", rate=44100)
        silence = np.zeros((1, 4096), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.rate = 44100
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut, "is broken or not a video"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_text("hello " * 99), "is broken or not a video"),
        (sound, "holds no video stream"),
        (lambda p: p.unlink(), "does not exist"),
        (lambda p: (p.unlink(), p.mkdir()), "holds no frames|is too short"),
    ],
)
def test_bad_file_is_named_in_one_sentence(
    damage: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    path = encode(tmp_path / "clip.mp4")
    damage(path)
    for read in (count_frames, read_frames):
        with pytest.raises((ValueError, FileNotFoundError), match=rf"clip\.mp4 ({sentence})"):
            read(path)


def test_broken_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(ValueError, match=r"0\.jpg is broken or not a picture"):
        read_frames(tmp_path)


def test_asking_beyond_the_end_says_how_many_frames_there_are(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match=r"too short: 5 frames from frame 20 .* 4 are there"):
        read_frames(path, start=20, frames=5)
    with pytest.raises(ValueError, match="stride=0"):
        read_frames(path, stride=0)


@pytest.mark.parametrize("name", ["pipe.mp4", "pipe.png"])
def test_pipes_are_never_opened(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    for read in (count_frames, read_frames):
        with pytest.raises(ValueError, match=rf"{name} is a pipe, a socket or a device: remove"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", [b"caf\xe9", b"new\nline", "\u2028".encode(), b"%d:\x1b[31m"])
def test_any_name_is_read_and_told_in_one_line(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(name + b".mkv")
    encode(tmp_path / "a.mkv").rename(path)
    assert indices(read_frames(path)) == list(range(COUNT))
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    Image.fromarray(barcode(3)).save(folder / os.fsdecode(name + b".png"))
    assert indices(read_frames(folder)) == [3]
    for bad in (path, folder / os.fsdecode(name + b".png")):
        bad.write_bytes(b"bad")
        with pytest.raises(ValueError, match="is broken or not a") as error:
            read_frames(bad)
        assert str(error.value).isprintable()


def test_clip_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(tmp_path / "clip.mkv")
    monkeypatch.setattr(video_module, "MAX_BYTES", 10 * 3 * 64 * 96)
    assert len(read_frames(path, frames=10)) == 10
    with pytest.raises(ValueError, match=r"11 frames of .*clip\.mkv are too large to be read"):
        read_frames(path, frames=11)
    with pytest.raises(ValueError, match=r"All frames of .*clip\.mkv are too large .* 96x64 pixe"):
        read_frames(path)
