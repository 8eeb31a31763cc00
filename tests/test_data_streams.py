import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.container import OutputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ardiffusion.data.pictures import MAX_PIXELS
from ardiffusion.data.video import count_frames, examine, read_frames
from tests.test_data_video import set_matrix

Stream = tuple[str, np.ndarray, str]  # codec, video, format of its pixels


def add(
    file: OutputContainer, codec: str, video: np.ndarray, pix_fmt: str, **context: object
) -> VideoStream:
    """Add a stream that holds a video (F, H, W, C); context: what its codec is told."""
    stream = file.add_stream(codec, rate=Fraction(25))
    assert isinstance(stream, VideoStream)
    stream.height, stream.width = video.shape[1:3]
    stream.pix_fmt = pix_fmt
    for name, value in context.items():
        setattr(stream.codec_context, name, value)
    return stream


def mux(file: OutputContainer, stream: VideoStream, video: np.ndarray) -> None:
    given = "rgba" if video.shape[-1] == 4 else "rgb24"
    for pixels in video:
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=given)
        file.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
    file.mux(stream.encode(None))


def write(path: Path, codec: str, video: np.ndarray, pix_fmt: str, **context: object) -> Path:
    with av.open(path, "w") as file:
        mux(file, add(file, codec, video, pix_fmt, **context), video)
    return path


def disc(height: int, width: int, aspect: float) -> np.ndarray:
    """Draw a disc 80 high on pixels `aspect` times as wide as high."""
    y, x = np.mgrid[:height, :width] - np.array([height, width])[:, None, None] / 2
    inside = np.hypot(y, x * aspect) < 40
    return np.repeat((inside * 255).astype(np.uint8)[None, ..., None], 3, 3).repeat(3, 0)


CODECS = {"a.mp4": "libx264", "a.mkv": "libx264", "a.avi": "mpeg4", "a.mpg": "mpeg2video"}


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(3, 4)])
def test_pixels_become_square(name: str, aspect: Fraction, tmp_path: Path) -> None:
    height, width = (120, 120) if aspect > 1 else (108, 256)  # shown as 4:3 and 16:9
    video = disc(height, width, float(aspect))
    path = write(tmp_path / name, CODECS[name], video, "yuv420p", sample_aspect_ratio=aspect)
    shown = read_frames(path)[0, 0] > 128
    assert shown.shape == (max(height, round(height / aspect)), max(width, round(width * aspect)))
    assert abs(int(shown.any(0).sum()) - int(shown.any(1).sum())) <= 2


def test_pixels_become_square_before_a_video_is_turned_upright(tmp_path: Path) -> None:
    video = disc(96, 96, 4 / 3)
    path = write(
        tmp_path / "a.mp4", "libx264", video, "yuv420p", sample_aspect_ratio=Fraction(4, 3)
    )
    plain = read_frames(path)
    set_matrix(path, 0, 1, -1, 0)
    assert torch.equal(read_frames(path), plain.rot90(-1, (2, 3)))
    assert plain.shape[2:] == (96, 128)


def test_nearly_square_pixels_are_left_as_they_are(tmp_path: Path) -> None:
    aspect = Fraction(1280, 1281)  # of 854x480, which stands for 16:9
    video = disc(96, 854, 1)
    path = write(tmp_path / "a.mp4", "libx264", video, "yuv420p", sample_aspect_ratio=aspect)
    assert read_frames(path).shape[2:] == (96, 854)


def two_streams(path: Path, first: Stream, second: Stream, disposition: tuple[int, int]) -> Path:
    with av.open(path, "w") as file:
        streams = [add(file, *stream) for stream in (first, second)]
        for stream, value in zip(streams, disposition, strict=True):
            stream.disposition = Disposition(value)
        for stream, (_, video, _) in zip(streams, (first, second), strict=True):
            mux(file, stream, video)
    return path


def test_cover_is_no_video(tmp_path: Path) -> None:
    cover = ("mjpeg", disc(96, 96, 1)[:1], "yuvj420p")
    video = ("libx264", disc(64, 64, 1), "yuv420p")
    attached, default = Disposition.attached_pic, Disposition.default
    path = two_streams(tmp_path / "a.mp4", cover, video, (attached, default))
    assert read_frames(path).shape == (3, 3, 64, 64)
    path = two_streams(tmp_path / "b.mp4", cover, cover, (attached, attached))
    for read in (read_frames, count_frames):
        with pytest.raises(ValueError, match=r"b\.mp4 holds no video stream that can be decoded"):
            read(path)


@pytest.mark.parametrize(
    ("disposition", "side"), [((0, 1), 32), ((1, 0), 64), ((1, 1), 64), ((0, 0), 64)]
)
def test_default_stream_or_else_the_largest_is_read(
    disposition: tuple[int, int], side: int, tmp_path: Path
) -> None:
    large = ("libx264", disc(64, 64, 1), "yuv420p")
    small = ("libx264", disc(32, 32, 1), "yuv420p")
    # MPEG-TS knows no default
    path = tmp_path / ("a.ts" if disposition == (0, 0) else "a.mp4")
    assert read_frames(two_streams(path, large, small, disposition)).shape[-1] == side
    swapped = (disposition[1], disposition[0])
    path = two_streams(tmp_path / ("b" + path.suffix), small, large, swapped)
    expected = {(1, 1): 32}.get(disposition, side)
    assert read_frames(path).shape[-1] == expected


@pytest.mark.parametrize(
    ("codec", "pix_fmt"), [("qtrle", "argb"), ("png", "rgba"), ("libvpx-vp9", "yuva420p")]
)
def test_transparent_videos_lie_on_white(codec: str, pix_fmt: str, tmp_path: Path) -> None:
    video = np.zeros((4, 64, 64, 4), np.uint8)
    video[..., 0] = 200
    video[:, :, 32:, 3] = 255
    path = tmp_path / ("a.webm" if "vp9" in codec else "a.mov")
    read = read_frames(write(path, codec, video, pix_fmt)).double()
    assert len(read) == 4
    assert (read[:, :, :, 8] - 255).abs().max() <= 2
    red = torch.tensor([200.0, 0.0, 0.0])[:, None]
    assert (read[:, :, :, 56] - red).abs().max() <= 4


def test_colours_equal_a_conversion_in_float64(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path, colours = tmp_path / "a.mkv", []
    with av.open(path, "w") as file:
        stream = add(
            file, "ffv1", np.zeros((1, 32, 32, 3)), "yuv420p", colorspace=1, color_range=1
        )
        for _ in range(50):
            colour = rng.integers((60, 110, 110), (190, 146, 146))
            frame = VideoFrame(32, 32, "yuv420p")
            for plane, value in zip(frame.planes, colour, strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.colorspace, frame.color_range = 1, 1
            file.mux(stream.encode(frame))
            colours.append(colour)
        file.mux(stream.encode(None))
    y, u, v = ((np.array(colours) - (16, 128, 128)) / (219, 224, 224)).T
    red, blue = y + 2 * (1 - 0.2126) * v, y + 2 * (1 - 0.0722) * u  # BT.709
    green = (y - 0.2126 * red - 0.0722 * blue) / 0.7152
    expected = torch.from_numpy(255 * np.stack([red, green, blue], 1))
    gap = read_frames(path).double() - expected[:, :, None, None]
    assert gap.abs().max() < 0.51
    assert gap.mean().abs() < 0.05


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_tags_need_not_be_utf8(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, "libx264", disc(64, 64, 1), "yuv420p")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"Lavf", b"Lav\xe9"))  # in the tag of the encoder
    assert b"Lavf" in data and len(read_frames(path)) == count_frames(path) == 3


def damaged(path: Path, codec: str = "mpeg4", pix_fmt: str = "yuv420p") -> Path:
    rng = np.random.default_rng(0)
    video = rng.integers(256, size=(12, 8, 8, 3), dtype=np.uint8).repeat(12, 1).repeat(12, 2)
    data = bytearray(write(path, codec, video, pix_fmt).read_bytes())
    for at in rng.integers(len(data) // 3, 2 * len(data) // 3, 12):
        data[at] ^= 255
    path.write_bytes(data)
    return path


def test_damage_that_ffmpeg_conceals_is_told_once_a_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = damaged(tmp_path / "bad.avi")
    for _ in range(2):
        assert len(read_frames(path)) == count_frames(path)
    assert len(caplog.messages) == 1
    assert "bad.avi is damaged, which FFmpeg conceals" in caplog.messages[0]
    assert examine(path).damage == caplog.messages[0]
    assert len(caplog.messages) == 1
    whole = write(tmp_path / "good.avi", "mpeg4", disc(64, 64, 1), "yuv420p")
    assert examine(whole)[:2] == (3, None)


def test_damage_that_a_decoder_marks_no_frame_for_is_told_too(tmp_path: Path) -> None:
    path = damaged(tmp_path / "bad.avi", "mjpeg", "yuvj420p")
    with av.open(path) as file:
        made_up = list(file.decode(video=0))
    grey = np.stack([frame.to_ndarray(format="gray") for frame in made_up])
    assert not any(frame.is_corrupt for frame in made_up)
    frames, damage, _ = examine(path)
    assert frames == 12 and "bad.avi is damaged, which FFmpeg conceals" in str(damage)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    gap = (read_frames(path) * weights).sum(1) - torch.from_numpy(grey)
    assert gap.abs().median() < 1  # colours that RGB does not have are off by more


def test_matroska_that_ends_early_is_damaged(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(256, size=(50, 32, 32, 3), dtype=np.uint8)
    path = write(tmp_path / "a.mkv", "libx264", noise, "yuv420p")
    assert examine(path)[:2] == (50, None)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, damage, _ = examine(path)
    assert 0 < frames < 40
    assert damage is not None
    assert f"a.mkv ends after {frames / 25:.2f} of the 2.00 seconds it announces" in damage


def test_absurd_sizes_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    frame = b"\x2c" + struct.pack("<4HB", 0, 0, 12000, 12000, 0) + b"\x02\x02\x44\x01\x00"
    head = b"GIF89a" + struct.pack("<2H3B", 12000, 12000, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    (tmp_path / "bomb.gif").write_bytes(head + frame * 50 + b"\x3b")
    thin = {"sample_aspect_ratio": Fraction(1, 100)}  # 80 million square pixels
    write(tmp_path / "thin.avi", "mpeg4", disc(2000, 400, 1), "yuv420p", **thin)
    for name, sentence in (("bomb.gif", "frames of more than"), ("thin.avi", "has frames of")):
        for read in (read_frames, count_frames):
            with pytest.raises(ValueError, match=rf"{name} .*{sentence}.* {MAX_PIXELS} pixels"):
                read(tmp_path / name)
