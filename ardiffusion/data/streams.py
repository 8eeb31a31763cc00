"""Frames of video files, as FFmpeg decodes them: upright, of square pixels, over white."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import torch
from av.buffer import Buffer
from av.codec.context import CodecContext
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from einops import rearrange
from torch import Tensor

from ardiffusion.data.boxes import claimed_samples
from ardiffusion.data.notices import warn_once
from ardiffusion.data.packets import Misplaced, PacketTable, read_table
from ardiffusion.data.pictures import MAX_PIXELS, Size, check_size, over_white, square
from ardiffusion.files import shown

_LARGE = 1280 * 720  # pixels from which decoding a whole file on several threads pays
# FFmpeg's default flags darken by 0.6 of 255 on average
_ACCURATE = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails  # covers and previews
_OPTIONS = {"max_pixels": str(MAX_PIXELS)}  # for sizes that only the decoder finds
_STRICT = {**_OPTIONS, "err_detect": "explode"}
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders drop it
# tags need not be UTF-8: av 18 stops at others unless told, later ones take no such argument
_ANY_TAGS: dict[str, Any] = (
    {"metadata_errors": "ignore"} if av.__version__.startswith("18.") else {}
)
_SPARE = 0.1  # seconds by which a stream may end early


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video file and choose its stream.

    Raises:
        ValueError: If it is broken or holds no video, with a sentence that names it.
    """
    with suppress(OSError):  # which FFmpeg will say
        if claimed_samples(path) > path.stat().st_size:
            raise ValueError(
                f"{shown(path)} is broken: it claims more frames than it has bytes: replace it."
            )
    try:
        # "file:" keeps FFmpeg from reading a protocol out of a name such as "a:b.mp4"
        name = f"file:{path}"
        with av.open(name, mode="r", options=_OPTIONS, **_ANY_TAGS) as container:
            yield container, _choose(container, path)
    except FFmpegError as error:
        reason = (error.strerror or type(error).__name__).lower()
        if isinstance(error, ArgumentError):
            reason += f", or frames of more than {MAX_PIXELS} pixels"
        raise ValueError(
            f"{shown(path)} is broken or not a video ({reason}): replace it."
        ) from error


def _choose(container: InputContainer, path: Path) -> VideoStream:
    """Return the first default stream, or the largest if there is none; covers are no video."""
    streams = [s for s in container.streams.video if not s.disposition & _NO_VIDEO]
    known = [s for s in streams if s.codec_context is not None]
    if not known:
        raise ValueError(
            f"{shown(path)} holds no video stream that can be decoded: remove it from the data "
            "folder."
        )
    default = [s for s in known if s.disposition & Disposition.default]
    return default[0] if default else max(known, key=lambda s: s.width * s.height)


def read_video(
    path: Path,
    threads: bool,
    report: Callable[[str], None],
    table: PacketTable | None = None,
    start: int = 0,
) -> Iterator[tuple[int, Callable[[], Tensor]]]:
    """Yield the numbers of frames, and functions that give them, uint8 (3, H, W), to the last.

    All are scaled to the size of the first. Not every decoder marks the frames that it makes up
    where a file is damaged, so all are first asked to stop at errors.

    Args:
        path: The video file.
        threads: Whether a large video is decoded on several threads.
        report: Called with a sentence, over and over, when FFmpeg conceals damage.
        table: Where frames are, if that is known.
        start: The first frame that is wanted; with a table, few before it are decoded.
    """
    convert, number = VideoReformatter(), -1
    try:
        for number, frame, size in _decode(path, threads, report, _STRICT, table, start):
            yield number, partial(_picture, frame, size=size, convert=convert)
    # broken, too large or damaged: it ends here, too, or goes on
    except (Misplaced, ValueError) as error:
        for other, frame, size in _decode(path, threads, report, _OPTIONS):
            if other > number:
                if not isinstance(error, Misplaced):
                    report(_damaged(path))
                yield other, partial(_picture, frame, size=size, convert=convert)


def _damaged(path: Path) -> str:
    return (
        f"{shown(path)} is damaged, which FFmpeg conceals by smeared or repeated frames: replace "
        "it."
    )


def _decode(
    path: Path,
    threads: bool,
    report: Callable[[str], None],
    options: dict[str, str],
    table: PacketTable | None = None,
    start: int = 0,
) -> Iterator[tuple[int, VideoFrame, Size]]:
    """Yield frames with their numbers and the sizes that they are to have."""
    with open_video(path) as (container, stream):
        aspect = stream.sample_aspect_ratio
        size = square((stream.width, stream.height), aspect)
        check_size(path, size)
        decoder, last = _decoder(stream, threads, options), 0
        number, packets = (table or PacketTable()).enter(container, stream, start)
        for packet in packets:
            last = max(last, (packet.pts or 0) + (packet.duration or 0))
            for frame in decoder.decode(packet):
                corrupt = frame.is_corrupt or packet.is_corrupt
                # what FFmpeg makes up depends on the frames before
                if table and (corrupt or table.number(frame.pts) != number):
                    raise Misplaced
                if corrupt:
                    report(_damaged(path))
                if number == 0:
                    size = square((frame.width, frame.height), aspect)
                yield number, frame, size
                number += 1
        end = float(last * (stream.time_base or 0))
        if end < (announced := _duration(stream)) - _SPARE:
            report(
                f"{shown(path)} ends after {end:.2f} of the {announced:.2f} seconds it announces: "
                "replace it."
            )


def find_table(path: Path) -> PacketTable:
    """Make the packet table of a file, and decode a few frames to see whether it is true."""
    with open_video(path) as (container, stream):
        size = (stream.width, stream.height)
        table = read_table(container, stream, seconds=_duration(stream) - _SPARE)
    for start in {0, len(table) - 1} if table else ():
        found: list[tuple[int, Size]] = []
        with suppress(Misplaced, ValueError):
            for number, frame, _ in _decode(path, False, warn_once, _STRICT, table, start):
                found.append((number, (frame.width, frame.height)))
                if len(found) == 2:
                    break
        if not found or found != [(n, size) for n in range(found[0][0], len(table))][:2]:
            return PacketTable(doubt="frames are not decoded as its packets promise")
    return table


def _decoder(stream: VideoStream, threads: bool, options: dict[str, str]) -> VideoCodecContext:
    decoder = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and decoder.name in _WITH_ALPHA:
        alpha = CodecContext.create(_WITH_ALPHA[decoder.name], mode="r")
        decoder = cast(VideoCodecContext, alpha)
    if threads and stream.width * stream.height >= _LARGE:
        decoder.thread_type = "AUTO"
    else:
        decoder.thread_count = 1
    decoder.options = options
    return decoder


def _duration(stream: VideoStream) -> float:
    """Return the seconds that Matroska's tag announces, which most writers set, or 0."""
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return 0.0


def _picture(frame: VideoFrame, size: Size, convert: VideoReformatter) -> Tensor:
    form = frame.format
    alpha = form.has_palette or any(part.is_alpha for part in form.components)
    frame = convert.reformat(
        frame,
        width=size[0],
        height=size[1],
        format="rgba" if alpha else "gbrp",  # in planes, which FFmpeg converts faster
        interpolation=_ACCURATE,
        threads=1,
    )
    if alpha:
        picture = rearrange(torch.from_numpy(over_white(frame.to_ndarray())), "h w c -> c h w")
    else:
        green, blue, red = (_pixels(plane, size) for plane in frame.planes)
        picture = torch.from_numpy(np.stack([red, green, blue]))
    return _upright(picture, frame)


def _pixels(plane: VideoPlane, size: Size) -> np.ndarray:
    lines = np.frombuffer(cast(Any, plane), np.uint8).reshape(-1, plane.line_size)
    return lines[: size[1], : size[0]]


def _upright(picture: Tensor, frame: VideoFrame) -> Tensor:
    """Turn a picture (3, H, W) as the display matrix of its frame demands."""
    sides = cast(Mapping[SideData, object], frame.side_data)  # av's own hints say str
    matrix = sides.get(SideData.DISPLAYMATRIX)
    if not isinstance(matrix, Buffer):
        return picture
    # x' = a x + c y and y' = b x + d y (16.16 fixed point), rows of three: (a b u)(c d v)(x y w)
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    if abs(b) > abs(a):
        picture = rearrange(picture, "c h w -> c w h")
        a, d = c, b
    flips = [axis for axis, sign in ((1, d), (2, a)) if sign < 0]
    return picture.flip(flips) if flips else picture
