"""How many samples an MP4 or QuickTime file claims (ISO/IEC 14496-12), seen before it is opened.

FFmpeg makes room for every sample that a table names, some 60 bytes each, when it opens a file.
"""

import os
import struct
from pathlib import Path

_FOLDERS = set(b"moov trak mdia minf stbl edts udta mvex moof traf".split())
_COUNT_AT = {b"stsz": 8, b"stz2": 8, b"trun": 4}  # bytes of a table before its number of samples


def claimed_samples(path: Path) -> int:
    """Add up what the tables of a file claim; in a file of another format there are none."""
    claimed = place = 0
    with open(path, "rb") as file:
        ends = [os.fstat(file.fileno()).st_size]  # of the boxes around a place
        while place + 8 <= ends[0]:
            if place + 8 > ends[-1]:
                place = ends.pop()
                continue
            file.seek(place)
            size, name, large = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
            inside = place + (16 if size == 1 else 8)
            size = large if size == 1 else size
            end = min(place + size, ends[-1]) if size else ends[-1]
            if end < inside:  # what is no box ends the one around it
                place = ends[-1]
            elif name in _FOLDERS:
                ends.append(end)
                place = inside
            else:
                place = end
            if name in _COUNT_AT:
                file.seek(inside + _COUNT_AT[name])
                claimed += int.from_bytes(file.read(4), "big")
    return claimed
