"""Pictures and animations as Pillow reads them: 8 bits, no transparency, upright, square pixels.

- Of more than 8 bits the high 8 are kept. Whole numbers of 32 bits must be those of 16 (65535 is
  white), and floating-point numbers must lie between 0 (black) and 1 (white).
- Transparent pictures lie on white, so that colours nobody sees do not appear.
- A picture whose file says that its pixels are not square is scaled until they are.
"""

import functools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ardiffusion.data.notices import warn_once
from ardiffusion.data.order import time_order
from ardiffusion.files import shown

PICTURES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .bmp .dib .webp .avif .tif .tiff .tga .jp2 .ppm .pgm .pbm "
    ".pnm .pfm".split()
)
ANIMATED = frozenset(".png .apng .webp .avif .tif .tiff".split())  # may hold several frames
MAX_PIXELS = 2**26  # of a frame: more than 8K video and the cameras of time lapses have
_ANIMATED_FORMATS = frozenset("PNG WEBP AVIF TIFF GIF".split())  # others may hold another view
_KIND, _BITS, _ZERO = 254, 258, 262  # tags of TIFF; where the last is 0, the number 0 is white
_SMALLER_OR_MASK = 1 | 4  # bits of _KIND
_REASONS = {UnidentifiedImageError: "unknown format", Image.DecompressionBombError: "too large"}
_NEARLY_SQUARE = 0.01  # pixels are so because sizes are whole and even numbers

Size = tuple[int, int]  # width and height


def picture_files(folder: Path) -> list[Path]:
    """List the pictures of a folder in the order of time that the numbers in their names tell."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name[0] != "." and is_file(entry)]
    names = [name for name in names if os.path.splitext(name)[1].lower() in PICTURES]
    order, told = time_order([os.path.splitext(name)[0] for name in names])
    files = [folder / names[index] for index in order]
    if not told:
        example = ", ".join(shown(file.name) for file in files[:3])
        warn_once(
            f"The names of the pictures in {shown(folder)} do not tell their order, now {example} "
            "...: number them from the first frame to the last."
        )
    return files


def is_file(entry: os.DirEntry[str]) -> bool:
    """Say whether an entry is a file or a dead link; pipes and devices must not be opened."""
    try:
        return entry.is_file() or not os.path.exists(entry.path)
    except OSError:  # a link to itself
        return True


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:  # a million times
        return entry.is_dir()
    except OSError:
        return False


def square(size: Size, aspect: Fraction | None) -> Size:
    """Return the size at which pixels `aspect` times as wide as high become square."""
    width, height = size
    if not aspect or aspect < 0 or abs(aspect - 1) < _NEARLY_SQUARE:
        return size
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def check_size(path: Path, size: Size) -> None:
    """Refuse frames that would fill the memory, before one is decoded."""
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(
            f"{shown(path)} has frames of {size[0]}x{size[1]} pixels, and at most {MAX_PIXELS} "
            "pixels are read: scale it down or remove it from the data folder."
        )


def over_white(rgba: np.ndarray) -> np.ndarray:
    """Lay uint8 pixels (H, W, 4) on white, uint8 (H, W, 3)."""
    if rgba[..., 3].min() < 255:
        picture = Image.fromarray(rgba)
        white = Image.new("RGBA", picture.size, "white")
        rgba = np.array(Image.alpha_composite(white, picture))
    return rgba[..., :3]


def is_animation(path: Path, broken: bool = False) -> bool:
    """Say whether a file holds more than one frame, or is broken, as whoever reads it will say."""
    try:
        with _open(path) as (_, pages):
            return len(pages) > 1
    except ValueError:
        return broken


def read_picture(path: Path, size: Size | None = None) -> Tensor:
    """Read the only frame of a file as uint8 (3, H, W), scaled to a size if one is given."""
    with _open(path) as (file, pages):
        if len(pages) > 1:
            raise ValueError(
                f"{shown(path)} holds {len(pages)} frames among single pictures: move it away."
            )
        file.seek(pages[0])
        return _convert(path, file, size)


def read_animation(path: Path) -> Iterator[Callable[[], Tensor]]:
    """Yield functions that give the frames of a file, uint8 (3, H, W), each in its turn.

    All are scaled to the size of the first.
    """
    with _open(path) as (file, pages):
        size: Size | None = None
        for page in pages:
            with _broken(path):
                file.seek(page)
            if size is None:
                first = _convert(path, file, size)
                size = (first.shape[2], first.shape[1])
                yield first.clone
            else:
                yield functools.partial(_convert, path, file, size)


@contextmanager
def _broken(path: Path) -> Iterator[None]:
    """Turn whatever Pillow's many readers raise over a damaged file into one sentence."""
    try:
        yield
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = _REASONS.get(type(error), reason.lower())
        raise ValueError(
            f"{shown(path)} is broken or not a picture ({reason}): replace it."
        ) from error


@functools.cache
def _trust_our_limit() -> None:
    """Keep Pillow from warning of sizes that are refused anyway, and of what it then reads."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


@contextmanager
def _open(path: Path) -> Iterator[tuple[Image.Image, Sequence[int]]]:
    """Open a file and list its frames."""
    _trust_our_limit()
    with _broken(path):
        file = Image.open(path)
    with file:
        check_size(path, file.size)
        with _broken(path):
            pages = _pages(file)
        yield file, pages


def _pages(file: Image.Image) -> Sequence[int]:
    """List the frames: no preview, mask or picture for programs that know no animation."""
    if file.format not in _ANIMATED_FORMATS:
        return [0]
    pages = range(int(getattr(file, "default_image", False)), getattr(file, "n_frames", 1))
    if file.format == "TIFF":
        return [page for page in pages if _is_frame(file, page)] or [0]
    return pages


def _is_frame(file: Image.Image, page: int) -> bool:
    file.seek(page)
    return not _tag(file, _KIND) & _SMALLER_OR_MASK


def _tag(file: Image.Image, number: int) -> int:
    """Read a tag of TIFF, the first of several values; 0 if there is none."""
    value = getattr(file, "tag_v2", {}).get(number, 0)
    return value[0] if isinstance(value, tuple) else value


def _convert(path: Path, file: Image.Image, size: Size | None) -> Tensor:
    """Convert the current page of a file."""
    with _broken(path):
        shape = square(file.size, _aspect(file.info))
    check_size(path, shape)
    with _broken(path):
        file.load()
    picture = _to_rgb(path, file)
    if picture.size != shape:
        picture = picture.resize(shape, resample=Image.Resampling.BICUBIC)
    picture.info = file.info
    with _broken(path):
        picture = ImageOps.exif_transpose(picture)
    if size is not None and picture.size != size:
        picture = picture.resize(size, resample=Image.Resampling.BICUBIC)
    return rearrange(torch.from_numpy(np.array(picture)), "h w c -> c h w")  # (3, H, W)


def _aspect(info: Mapping[Any, Any]) -> Fraction | None:
    """Read how much wider than high pixels are.

    Without a unit the two numbers are what FFmpeg reads and writes there: width and height.
    """
    width, height = info.get("aspect") or (0, 0)
    if info.get("jfif_unit") == 0:
        width, height = info["jfif_density"]
    elif "dpi" in info:
        height, width = info["dpi"]
    return Fraction(width) / Fraction(height) if width > 0 and height > 0 else None


def _to_rgb(path: Path, file: Image.Image) -> Image.Image:
    if file.mode == "F" or file.mode.startswith("I"):
        return Image.fromarray(_eight_bits(path, file)).convert("RGB")
    with _broken(path):
        if file.has_transparency_data:
            return Image.fromarray(over_white(np.asarray(file.convert("RGBA"))))
        return file.convert("RGB")


def _eight_bits(path: Path, file: Image.Image) -> np.ndarray:
    """Return grey levels of more than 8 bits in 8 bits, uint8 (H, W)."""
    values = np.asarray(file)
    low, high = values.min(), values.max()
    bits = _tag(file, _BITS) or 16
    # in 32 bits nobody knows whether 200 of 255 or of 65535 is meant; 16 with a sign have no white
    sure = file.mode != "I" or file.format != "TIFF" or (bits == 32 and (high > 255 or high == 0))
    if file.mode == "F" and low >= 0 and high <= 1:  # neither is true of what is no number
        return (values * 255).round().astype(np.uint8)
    if file.mode == "F" or not sure or low < 0 or high > 65535:
        raise ValueError(
            f"{shown(path)} holds numbers from {low} to {high}, so that its white is not known: "
            "store 8 bits, 16 without a sign, or numbers from 0 to 1."
        )
    grey = values >> (min(bits, 16) - 8)
    grey = 255 - grey if file.format == "TIFF" and not _tag(file, _ZERO) else grey
    return np.where(values == file.info.get("transparency", -1), 255, grey).astype(np.uint8)
