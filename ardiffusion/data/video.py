"""Frame-exact reading of videos: files through PyAV, pictures and animations through Pillow.

Frame `i` is the i-th picture that a full sequential decode yields. Files are seeked where a packet
table proves that this gives the same pictures, and are read from their beginning elsewhere.
"""

import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ardiffusion.data.notices import warn_once
from ardiffusion.data.packets import PacketTable
from ardiffusion.data.pictures import PICTURES, picture_files, read_animation, read_picture
from ardiffusion.data.streams import find_table, read_video
from ardiffusion.data.windows import extent
from ardiffusion.files import shown

MAX_BYTES = 2**32  # of the frames of one clip, which would fill the memory of many machines
FAR = 250  # frames to decode that a table is worth, which takes the time of 4 % of all of them


def _is_folder(path: Path) -> bool:
    """Say whether a path is a folder and not a file; refuse the rest without opening it.

    A pipe, for example, waits for ever.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        problem = f"{shown(path)} does not exist: check the path of the video."
        raise FileNotFoundError(problem) from None
    except OSError as error:
        problem = f"{shown(path)} cannot be read ({error.strerror}): replace it."
        raise ValueError(problem) from error
    if stat.S_ISDIR(status.st_mode):
        return True
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{shown(path)} is a pipe, a socket or a device: remove it.")
    if status.st_size == 0:
        raise ValueError(f"{shown(path)} is empty: replace it.")
    return False


class Contents(NamedTuple):
    """What a video holds: its frames, the damage that FFmpeg conceals, and its packet table."""

    frames: int
    damage: str | None = None
    table: PacketTable = PacketTable()


class VideoReader:
    """Read clips of a video; those of a file that follow each other are decoded in one go.

    Args:
        path: Video file, animation, or folder of pictures whose names hold numbers.
        table: The packet table of a file, which is made when it pays if it is not given.
    """

    def __init__(self, path: str | Path, table: PacketTable | None = None) -> None:
        self.path, self.table = Path(path), table
        self._files: list[Path] | None = None  # of a folder
        self._frames: Iterator[tuple[int, Callable[[], Tensor]]] = iter(())
        self._next: int | None = None  # index of the frame that comes next, None at the end

    def _decode(self, wanted: slice) -> Iterator[Tensor]:
        path, picture = self.path, self.path.suffix.lower() in PICTURES
        here = self._next if self._next is not None and self._next <= wanted.start else 0
        if self.table is None and wanted.start - here >= FAR:
            self.table = PacketTable() if picture else find_table(path)
        entry = self.table.entry(wanted.start) if self.table else 0
        if self._next is None or not entry <= self._next <= wanted.start:
            # for a clip the start of FFmpeg's threads costs more than they save
            threads = wanted.stop is None
            video = read_video(path, threads, warn_once, table=self.table, start=wanted.start)
            self._frames = enumerate(read_animation(path)) if picture else video
        self._next = None  # an error or the end leaves nothing to go on with
        for index, frame in self._frames:
            if index >= wanted.start and (index - wanted.start) % wanted.step == 0:
                yield frame()
            if wanted.stop is not None and index + 1 >= wanted.stop:
                self._next = index + 1
                break

    def _read_folder(self, wanted: slice) -> Iterator[Tensor]:
        self._files = self._files or picture_files(self.path)
        size = None
        for file in self._files[wanted]:
            picture = read_picture(file, size)
            size = (picture.shape[2], picture.shape[1])
            yield picture

    def read(self, start: int = 0, frames: int | None = None, stride: int = 1) -> Tensor:
        """Read a clip as `read_frames` does."""
        if start < 0 or stride < 1 or (frames is not None and frames < 1):
            raise ValueError(
                f"Cannot read start={start}, frames={frames}, stride={stride} of "
                f"{shown(self.path)}: start must be at least 0, frames and stride at least 1."
            )
        read = self._read_folder if _is_folder(self.path) else self._decode
        stop = None if frames is None else start + extent(frames, stride)
        pictures: list[Tensor] = []
        for picture in read(slice(start, stop, stride)):
            if (frames or len(pictures) + 1) * picture.numel() > MAX_BYTES:
                raise ValueError(
                    f"{frames or 'All'} frames of {shown(self.path)} are too large to be read at "
                    f"once, {picture.shape[2]}x{picture.shape[1]} pixels each: read fewer frames."
                )
            pictures.append(picture)
        if not pictures or len(pictures) != (frames or len(pictures)):
            raise ValueError(
                f"{shown(self.path)} is too short: {frames or 'any'} frames from frame {start} on "
                f"at stride {stride} were asked for, and {len(pictures)} are there."
            )
        return _stack(pictures)  # (F, 3, H, W)


def _stack(pictures: list[Tensor]) -> Tensor:
    """Stack pictures and let go of each, so that memory holds them once."""
    video = pictures[0].new_empty((len(pictures), *pictures[0].shape))
    for index in reversed(range(len(pictures))):
        video[index] = pictures.pop()
    return video


def read_frames(
    path: str | Path, start: int = 0, frames: int | None = None, stride: int = 1
) -> Tensor:
    """Read frames `start, start + stride, ...` of a video file or of a folder of pictures.

    Args:
        path: Video file, animation, or folder of pictures whose names hold numbers.
        start: Index of the first frame.
        frames: How many frames to read, all to the end by default.
        stride: Step between two frames.

    Returns:
        uint8 video (F, 3, H, W), upright, of square pixels and over white where it is transparent;
        a picture of another size is scaled to the first one's.
    """
    return VideoReader(path).read(start=start, frames=frames, stride=stride)


def examine(path: str | Path) -> Contents:
    """Say what is in a video; where its packets do not prove it, it is decoded."""
    path, table = Path(path), PacketTable()
    damage: list[str] = []
    if _is_folder(path):
        count = len(picture_files(path))
    elif path.suffix.lower() in PICTURES:
        count = sum(1 for frame in read_animation(path) if frame() is not None)
    elif table := find_table(path):
        count = len(table)
    else:
        count = sum(1 for _ in read_video(path, threads=True, report=damage.append))
    if count == 0:
        raise ValueError(f"{shown(path)} holds no frames: remove it from the data folder.")
    return Contents(count, damage=damage[0] if damage else None, table=table)


def count_frames(path: str | Path) -> int:
    """Count the frames a full decode yields, or the pictures of a folder; warn of damage."""
    contents = examine(path)
    if contents.damage is not None:
        warn_once(contents.damage)
    return contents.frames
