"""The packet table of a video file: when each frame is shown, and where decoding may begin.

The demuxer makes it without decoding. Frame `i` is the one with the i-th timestamp; that a full
decode yields the same i-th picture, and that decoding from a key frame on gives the same pictures,
is proved as follows, or the table holds no frames and says why:

- The file is MP4, QuickTime or Matroska and its codec H.264, HEVC, VP9, AV1 or one of key frames
  alone: each packet is one picture, shown once, with a timestamp of its own. AVI and transport
  streams make timestamps up, and MPEG-4 and VP8 have packets that show nothing.
- Packets are whole and hold something, and their timestamps are there, not negative and all
  different. Those that an edit list discards lie before the first frame or after the last.
- The first packet is a key frame and all groups of pictures are closed: what is decoded after a
  key frame is shown after it and does not refer to what lies before it. Formats promise that of
  key frames in VP9 and AV1, of IDR pictures in H.264 and of random access pictures in HEVC, but
  not of the points of recovery that files call key frames, too.
- The first frames, and those after a seek to the last key frame, are decoded and have the
  timestamps and the size that are expected (`streams.find_table`).

Damage within a packet shows when it is decoded: the timestamp of each frame that is read is
compared with the table, and where they differ the file is read from its beginning without one.
"""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

_CONTAINERS = {"mov", "matroska"}  # first names of FFmpeg's demuxers
_CODECS = {"h264", "hevc", "vp9", "av1"}
# kinds of NAL units that no later picture looks behind: IDR; IDR, CRA and BLA
_REFRESH = {"h264": {5}, "hevc": set(range(16, 22))}
_LENGTH_AT = {"h264": 4, "hevc": 21}  # where the extradata say how long the length of a unit is


class Misplaced(Exception):
    """A frame is not where its packet table says."""


class PacketTable:
    """Where the frames of a file are; without frames if that is not proved.

    Args:
        pts: Timestamp of each frame, in the order in which they are shown, int64.
        entries: Numbers of the frames to which one can seek, int64.
        doubt: Why there are no frames.
    """

    def __init__(
        self, pts: Iterable[int] = (), entries: Iterable[int] = (), doubt: str = ""
    ) -> None:
        self.pts, self.entries = (np.array(values, np.int64) for values in (pts, entries))
        self.doubt = doubt

    def __len__(self) -> int:
        return len(self.pts)

    def entry(self, frame: int) -> int:
        """Return the last frame at or before one from which on files can be decoded."""
        place = np.searchsorted(self.entries, frame, side="right")
        return int(self.entries[place - 1]) if place else 0

    def number(self, pts: int | None) -> int | None:
        """Return the number of the frame with a timestamp, if there is one."""
        place = 0 if pts is None else int(np.searchsorted(self.pts, pts))
        return place if place < len(self) and self.pts[place] == pts else None

    def enter(
        self, container: InputContainer, stream: VideoStream, frame: int
    ) -> tuple[int, Iterator[Packet]]:
        """Go to the entry before a frame, and return its number and the packets from there."""
        packets, entry = container.demux(stream), self.entry(frame)
        if entry == 0:
            return 0, packets
        for goal in (frame, entry):  # as demuxers seek by time of decoding, they may miss
            with suppress(FFmpegError, StopIteration, IndexError):
                container.seek(int(self.pts[goal]), stream=stream)
                first = next(packets)
                number = self.number(first.pts)
                if number is not None and number <= frame and number in self.entries:
                    return number, chain([first], packets)
        raise Misplaced

    def pack(self) -> bytes:
        """Pack the table, some 50 bytes if frames are evenly spaced."""
        steps = [np.diff(values, prepend=0) for values in (self.pts, self.entries)]
        return zlib.compress(np.concatenate([[len(self)], *steps]).tobytes())

    @classmethod
    def unpack(cls, packed: bytes) -> "PacketTable":
        frames, *steps = np.frombuffer(zlib.decompress(packed), np.int64)
        return cls(np.cumsum(steps[:frames]), np.cumsum(steps[frames:]))


def read_table(container: InputContainer, stream: VideoStream, seconds: float) -> PacketTable:
    """Make the table of a stream, which takes so many seconds if nothing is missing."""
    codec, extradata = stream.codec_context.codec, stream.codec_context.extradata or b""
    name = codec.canonical_name
    if container.format.name.split(",")[0] not in _CONTAINERS:
        return PacketTable(doubt="its container makes timestamps up")
    if name not in _CODECS and not codec.intra_only:
        return PacketTable(doubt="its codec has packets that show nothing")
    times, keys, hidden, end = list[int](), list[bool](), list[bool](), 0
    for packet in container.demux(stream):
        if packet.dts is None and packet.size == 0:  # the end
            break
        if packet.pts is None or packet.size == 0 or packet.is_corrupt:
            return PacketTable(doubt="a packet is empty, damaged or without a timestamp")
        if packet.is_keyframe and not _refreshes(packet, name, extradata):
            return PacketTable(doubt="a key frame does not end what later frames refer to")
        times.append(packet.pts)
        keys.append(packet.is_keyframe)
        hidden.append(packet.is_discard)
        end = max(end, packet.pts + (packet.duration or 0))
    if end * (stream.time_base or 0) < seconds:
        return PacketTable(doubt="it ends early")
    return _prove(np.array(times, np.int64), np.array(keys, bool), ~np.array(hidden, bool))


def _refreshes(packet: Packet, codec: str, extradata: bytes) -> bool:
    """Say whether no picture after a key frame may refer to what lies before it."""
    if codec not in _REFRESH:
        return True
    place, data = _LENGTH_AT[codec], bytes(packet)
    if len(extradata) <= place or extradata[0] != 1:
        return False  # not as MP4 and Matroska demand
    size, at = (extradata[place] & 3) + 1, 0
    while at + size < len(data):
        kind = data[at + size] & 31 if codec == "h264" else data[at + size] >> 1 & 63
        if kind in _REFRESH[codec]:
            return True
        at += size + int.from_bytes(data[at : at + size], "big")
    return False


def _prove(times: np.ndarray, keys: np.ndarray, shown: np.ndarray) -> PacketTable:
    """Make a table of packets in the order of decoding if this proves that of the frames."""
    pts = np.unique(times[shown])
    if len(pts) == 0 or len(pts) != shown.sum() or pts[0] < 0:
        return PacketTable(doubt="timestamps are doubled, negative or not there")
    if ((times[~shown] >= pts[0]) & (times[~shown] <= pts[-1])).any():
        return PacketTable(doubt="an edit list cuts frames out of the middle")
    later = np.minimum.accumulate(times[::-1])[::-1]  # the first to be shown from a packet on
    if not keys[0] or (later < times)[keys].any():
        return PacketTable(doubt="a group of pictures is open")
    return PacketTable(pts, np.searchsorted(pts, np.sort(times[keys & shown])))
