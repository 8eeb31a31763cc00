"""A folder of videos as the evaluation reads it, and what else is known of its videos."""

import os
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from ardiffusion.data.clips import resize_crop
from ardiffusion.data.index import index_clips, known_table
from ardiffusion.data.layouts import by_stem, find_clips
from ardiffusion.data.pictures import PICTURES, picture_files
from ardiffusion.data.stamp import stamp
from ardiffusion.data.streams import open_video
from ardiffusion.data.video import VideoReader
from ardiffusion.metrics.clip_features import Videos
from ardiffusion.metrics.protocol import Protocol

LOSSLESS = frozenset(
    "png apng bmp dib tif tiff tga ppm pgm pbm pnm pfm ffv1 huffyuv ffvhuff utvideo rawvideo "
    "qtrle magicyuv".split()
)
LOOKED_AT = 100  # videos of a folder, to tell how they are stored; opening one takes milliseconds


class VideoFolder:
    """Videos below a folder, in the order of their paths.

    Args:
        root: Folder of videos or of folders of frames.
        resolution: Height and width that frames are scaled and cropped to, if any.

    Attributes:
        paths: The videos, below the root.
        lengths: Their numbers of frames, 0 for broken ones.
        readable: Those that are not broken.
    """

    def __init__(self, root: str | Path, resolution: int | None = None) -> None:
        self.root, self.resolution = Path(root).expanduser(), resolution
        self.paths = [entry.path for entry in find_clips(self.root, option="the path")]
        self.lengths = index_clips(self.root, self.paths).frames.tolist()
        self.readable = [p for p, n in zip(self.paths, self.lengths, strict=True) if n]

    def videos(self, protocol: Protocol) -> Videos:
        """Return what the evaluation by a protocol needs."""
        frames, stride = protocol.frames, protocol.stride
        return Videos(
            name=str(self.root),
            names=self.paths,
            lengths=self.lengths,
            stamp=lambda video: stamp(self.root / self.paths[video]),
            read=lambda clip: self.read(clip.video, clip.start, frames=frames, stride=stride),
            identity={"root": os.path.realpath(self.root), "resolution": self.resolution},
        )

    def read(self, video: int, start: int, frames: int, stride: int = 1) -> Tensor:
        path = self.root / self.paths[video]
        reader = VideoReader(path, known_table(path))
        return self._scaled(reader.read(start, frames=frames, stride=stride))

    def parts(self, video: int, frames: int, part: int) -> Iterator[Tensor]:
        reader = VideoReader(self.root / self.paths[video])
        for start in range(0, frames, part):
            yield self._scaled(reader.read(start, frames=min(part, frames - start)))

    def _scaled(self, clip: Tensor) -> Tensor:
        return clip if self.resolution is None else resize_crop(clip, self.resolution)

    def stems(self) -> dict[str, int]:
        """Number the videos by their paths without suffix."""
        return {stem: number for number, stem in enumerate(by_stem(self.root, self.paths))}

    def encodings(self) -> list[str]:
        """List the ways that videos are stored: suffixes of pictures and names of codecs.

        At most `LOOKED_AT` videos are looked at, spread evenly over the folder.
        """
        found: set[str] = set()
        for path in self.readable[:: -(-len(self.readable) // LOOKED_AT) or 1]:
            file = self.root / path
            found |= set(map(encoding, picture_files(file) if file.is_dir() else [file]))
        return sorted(found)


def encoding(file: Path) -> str:
    if (suffix := file.suffix.lower()) in PICTURES:
        return suffix[1:]
    with open_video(file) as (_, stream):
        return stream.codec_context.name


def compression_differs(one: VideoFolder, other: VideoFolder) -> str | None:
    first, second = one.encodings(), other.encodings()
    if first == second:
        return None
    lossy = [any(name not in LOSSLESS for name in names) for names in (first, second)]
    if not any(lossy):
        return None
    sampled = max(len(folder.readable) for folder in (one, other)) > LOOKED_AT
    basis = f" (by at most {LOOKED_AT} videos spread over each)" if sampled else ""
    return (
        f"{one.root} is stored as {', '.join(first)} and {other.root} as {', '.join(second)}"
        f"{basis}: traces of compression on one side shift the distance, so store both alike."
    )
