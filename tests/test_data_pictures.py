import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ardiffusion.data.pictures import MAX_PIXELS, is_animation, picture_files
from ardiffusion.data.video import count_frames, read_frames

RAMP = np.linspace(0, 1, 64)[None].repeat(48, 0)
SIXTEEN = (RAMP * 65535).astype(np.uint16)


def read(path: Path) -> Tensor:
    """Read a picture through the folder it is in, and as a file; both must be the same."""
    folder = path.parent
    video = read_frames(folder)
    assert torch.equal(read_frames(path), video)
    return video[0]


def netpbm(path: Path, limit: int, magic: bytes = b"P5") -> None:
    values = np.round(RAMP * limit).astype(">u2")
    values = values.repeat(3, 1) if magic == b"P6" else values
    path.write_bytes(magic + b" 64 48 %d\n" % limit + values.tobytes())


def tiff(path: Path, array: np.ndarray, **tags: int) -> None:
    numbers = {"zero_is_white": 262, "sample_format": 339}
    info = {numbers[name]: value for name, value in tags.items()}
    Image.fromarray(array).save(path, tiffinfo=info)


def png(path: Path, width: int, height: int, depth: int, kind: int, pixels: bytes) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def rgb48(path: Path) -> None:
    rows = SIXTEEN.repeat(3, 1).astype(">u2")
    png(path, 64, 48, depth=16, kind=2, pixels=b"".join(b"\0" + row.tobytes() for row in rows))


DEEP: dict[str, Callable[[Path], Any]] = {
    "grey.png": lambda path: Image.fromarray(SIXTEEN).save(path),
    "GREY.TIF": lambda path: Image.fromarray(SIXTEEN).save(path),
    "colour.png": rgb48,
    "white_is_zero.tif": lambda path: tiff(path, 65535 - SIXTEEN, zero_is_white=0),
    "int32.tif": lambda path: Image.fromarray(SIXTEEN.astype(np.int32)).save(path),
    "float.tiff": lambda path: Image.fromarray(RAMP.astype(np.float32)).save(path),
    "float.pfm": lambda path: Image.fromarray(RAMP.astype(np.float32)).save(path),
    "grey.pgm": lambda path: netpbm(path, 65535),
    "ten_bits.pgm": lambda path: netpbm(path, 1023),
    "colour.ppm": lambda path: netpbm(path, 65535, magic=b"P6"),
}


@pytest.mark.parametrize("name", DEEP)
def test_pictures_of_more_than_8_bits_keep_the_high_ones(name: str, tmp_path: Path) -> None:
    DEEP[name](tmp_path / name)
    expected = torch.from_numpy(RAMP * 255).expand(3, 48, 64)
    assert (read(tmp_path / name).double() - expected).abs().max() <= 1


def test_dark_16_bit_pictures_are_dark(tmp_path: Path) -> None:
    netpbm(tmp_path / "0.pgm", 65535)
    (tmp_path / "0.pgm").write_bytes(b"P5 2 1 65535\n" + bytes([0, 200, 1, 0]))
    assert read(tmp_path / "0.pgm")[0, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (RAMP.astype(np.float32) * 255, "holds numbers from 0.0 to 255.0, so that its white"),
        (RAMP.astype(np.float32) - 0.5, "holds numbers from -0.5 to 0.5"),
        (np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), "holds numbers from nan to nan"),
        ((RAMP * 255).astype(np.int32), "holds numbers from 0 to 255, so"),  # of 255 or of 65535?
        ((RAMP * 2**30).astype(np.int32), "holds numbers from 0 to 1073741824"),
        ((RAMP * 999).astype(np.int32) - 1, "holds numbers from -1 to 998"),
    ],
)
def test_numbers_without_a_known_white_are_refused(
    array: np.ndarray, sentence: str, tmp_path: Path
) -> None:
    Image.fromarray(array).save(tmp_path / "0.tif")
    with pytest.raises(ValueError, match=rf"0\.tif {sentence}"):
        read(tmp_path / "0.tif")


def test_grey_palette_and_print_colours_become_rgb(tmp_path: Path) -> None:
    colours = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
    picture = Image.fromarray(colours)
    for mode in ("1", "L", "P", "CMYK", "LA", "RGBA"):
        path = tmp_path / mode / ("0.tif" if mode == "CMYK" else "0.png")
        path.parent.mkdir()
        picture.convert(mode).save(path)
        expected = picture.convert(mode).convert("RGB")
        assert torch.equal(read(path), torch.from_numpy(np.array(expected)).permute(2, 0, 1))


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_transparent_pictures_lie_on_white(suffix: str, tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 0] = 200  # the hidden colour
    pixels[:, 2:4, 3], pixels[:, 4:, 3] = 102, 255
    Image.fromarray(pixels).save(tmp_path / f"0.{suffix}", lossless=True)
    assert read(tmp_path / f"0.{suffix}")[:, 0, ::2].T.tolist() == [
        [255, 255, 255],
        [233, 153, 153],
        [200, 0, 0],
        [200, 0, 0],
    ]


def test_transparent_palettes_and_greys_lie_on_white(tmp_path: Path) -> None:
    for name, picture, hidden in (
        ("P", Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P"), 0),
        ("L", Image.fromarray(np.array([[50, 90]], np.uint8)), 50),
    ):
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / "0.png", transparency=hidden)
        first, second = read(tmp_path / name / "0.png")[0, 0].tolist()
        assert first == 255 and second < 255


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_pixels_become_square(suffix: str, tmp_path: Path) -> None:
    picture, path = Image.new("RGB", (60, 40), "red"), tmp_path / f"0.{suffix}"
    if suffix == "jpg":  # as FFmpeg writes the frames of a video whose pixels are 4:3
        picture.save(path, dpi=(4, 3))
        path.write_bytes(path.read_bytes().replace(b"JFIF\0\1\1\1", b"JFIF\0\1\1\0", 1))
    else:
        picture.save(path, dpi=(72, 96))
    assert read(path).shape == (3, 40, 80)
    picture.save(path, dpi=(72, 72.2))  # nearly square is square
    assert read(path).shape == (3, 40, 60)


def frames(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (32, 24), (i * 20, 255 - i * 20, 0)) for i in range(count)]


@pytest.mark.parametrize("suffix", ["webp", "png", "apng", "tif", "TIFF", "gif"])
def test_animations_are_clips(suffix: str, tmp_path: Path) -> None:
    path, pictures = tmp_path / f"clip.{suffix}", frames(8)
    kind = {"tif": "TIFF", "apng": "PNG"}.get(suffix.lower(), suffix.upper())
    pictures[0].save(path, kind, save_all=True, append_images=pictures[1:], lossless=True)
    assert count_frames(path) == 8
    video = read_frames(path)
    assert video.shape == (8, 3, 24, 32)
    expected = torch.tensor([picture.getpixel((0, 0)) for picture in pictures])
    assert (video[:, :, 5, 5].long() - expected).abs().max() <= (8 if suffix == "gif" else 1)
    assert torch.equal(read_frames(path, start=2, frames=2, stride=3), video[[2, 5]])


def test_previews_masks_and_default_pictures_are_no_frames(tmp_path: Path) -> None:
    first, *others = frames(5)
    first.save(tmp_path / "a.png", save_all=True, default_image=True, append_images=others)
    assert count_frames(tmp_path / "a.png") == 4
    assert read_frames(tmp_path / "a.png")[0, 0, 0, 0] == 20
    still = tmp_path / "still.tif"
    small = first.resize((8, 6))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    first.save(still, save_all=True, append_images=[small])
    assert not is_animation(still)
    assert count_frames(still) == 1
    still.rename(tmp_path / "a.tif")
    (tmp_path / "a.png").unlink()
    assert read(tmp_path / "a.tif").shape == (3, 24, 32)


def test_animation_among_single_pictures_is_named(tmp_path: Path) -> None:
    first, *others = frames(4)
    first.save(tmp_path / "0.png")
    first.save(tmp_path / "1.png", save_all=True, append_images=others)
    with pytest.raises(ValueError, match=r"1\.png holds 4 frames among single pictures: move it"):
        read_frames(tmp_path)


def test_absurd_sizes_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    for side in (100_000, 13_000, 8200):  # beyond Pillow's limit, just under it, over ours
        path = tmp_path / f"{side}.png"
        png(path, side, side, depth=8, kind=2, pixels=b"\0" * 999)
        too_large = (
            rf"{side}\.png (is broken or not a picture \(too large\)|has frames of {side}x)"
        )
        with pytest.raises(ValueError, match=too_large):
            read_frames(path)
    thin = tmp_path / "thin.png"
    Image.new("L", (90, 9000)).save(thin, dpi=(1, 100))  # 81 million square pixels
    with pytest.raises(ValueError, match=rf"\d+x9000 pixels, and at most {MAX_PIXELS} pixels"):
        read_frames(thin)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_cut_animation_is_named(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(256, size=(4, 32, 32, 3), dtype=np.uint8)
    first, *others = map(Image.fromarray, noise)
    path = tmp_path / f"clip.{suffix}"
    first.save(path, save_all=True, append_images=others)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=rf"clip\.{suffix} is broken or not a picture \("):
        count_frames(path)


def test_order_is_by_all_numbers_and_doubt_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder, names in (("cam", [f"f{i}_cam1.png" for i in (1, 2, 10)]), ("words", "cab")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name.removesuffix('.png')}-.png").touch()
    names = [path.name for path in picture_files(tmp_path / "cam")]
    assert names == ["f1_cam1-.png", "f2_cam1-.png", "f10_cam1-.png"]
    assert not caplog.messages
    (tmp_path / "words" / "x1.png").touch()
    assert [path.name[0] for path in picture_files(tmp_path / "words")] == ["a", "b", "c", "x"]
    picture_files(tmp_path / "words")
    assert len(caplog.messages) == 1
    assert "words do not tell their order, now a-.png, b-.png, c-.png" in caplog.messages[0]
