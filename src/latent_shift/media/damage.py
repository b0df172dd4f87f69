"""Signs of damage that decoders pass over in silence: rows of a PNG, data of a JPEG, and zeros at the end.

Each of these is what is left of a picture or film that was not fetched, copied or written to its end.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import av

from latent_shift.io import zeros_at_end

DAMAGED_JPEG = (
    "is perhaps damaged: its data ends early, or makes no sense, and parts of the picture are guessed"
)
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by PNG's type of colour
# Of an interlaced PNG: first column and row of each pass, and its steps.
_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip
_ONE_FILM = (b"FLV", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11")  # begin a FLV, and a WMV
_LEAST_TAIL = 256  # bytes of zeros at the end of a file that are remarked on


def lacks_rows(png: bytes) -> bool:
    """Whether a frame of a PNG, still or moving, holds less data than its rows take.

    Pillow leaves such rows black. Raises zlib.error or struct.error for damaged data.
    """
    place, bits, interlaced = 8, 8, 0
    missing, begun, inflate = 0, False, zlib.decompressobj()  # bytes of a frame; whether it has data
    while place + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        body = png[place + 8 : place + 8 + length]
        place += 12 + length
        if kind == b"IHDR":
            width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", body)
            bits = depth * _CHANNELS.get(color, 1)
            missing = _size(width, height, bits, interlaced)
        elif kind == b"fcTL":  # of the next frame; one before the first data is of that
            width, height = struct.unpack_from(">II", body, 4)
            if begun and missing:
                return True
            missing, begun, inflate = _size(width, height, bits, interlaced), False, zlib.decompressobj()
        elif kind in (b"IDAT", b"fdAT") and missing:
            begun = True
            missing -= len(inflate.decompress(body[4 * (kind == b"fdAT") :], missing))
    return missing > 0


def _size(width: int, height: int, bits: int, interlaced: int) -> int:
    """Bytes that the rows of a frame take, each with its filter."""
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = ((-((x - width) // dx), -((y - height) // dy)) for x, y, dx, dy in passes)
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns and rows)


def jpeg_is_damaged(jpeg: bytes) -> bool:
    """Whether FFmpeg finds fault with the data of a JPEG, of which Pillow makes a picture in silence."""
    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.options = {"err_detect": "explode"}
    try:
        decoder.decode(av.Packet(jpeg))
    except av.InvalidDataError:
        return True
    except (av.FFmpegError, ValueError):  # of a kind that FFmpeg does not decode
        pass
    return False


def file_notes(opened: BinaryIO) -> Iterator[str]:
    """Yield remarks on a file of which the last part was perhaps never written, or is never read."""
    head = opened.read(16)
    if not head.startswith(b"BM"):  # black in it is zeros
        length = zeros_at_end(opened)
        if length >= _LEAST_TAIL:
            why = "perhaps it was not fetched or copied to its end"
            yield f"its last {length} bytes or more are zeros: {why}"
    if _holds_another(opened, head):
        yield "another film follows in the same file, and is not read: join films with a program for films"


def _holds_another(opened: BinaryIO, head: bytes) -> bool:
    """Whether the bytes of another film follow those of an MP4, FLV or WMV; FFmpeg reads the first only."""
    if head[4:8] == b"ftyp":
        return _count_boxes(opened, b"moov") > 1
    if not head.startswith(_ONE_FILM):
        return False
    opened.seek(1)
    before = b""
    while block := opened.read(1 << 20):
        if head[:9] in before + block:
            return True
        before = block[-8:]
    return False


def _count_boxes(opened: BinaryIO, kind: bytes) -> int:
    """The boxes of one kind of an MP4, those within others aside."""
    count, place = 0, 0
    while len(begun := _read_at(opened, place, 16)) >= 8:
        size = int.from_bytes(begun[:4], "big")
        if size == 1:  # the size follows, in 8 bytes
            size = int.from_bytes(begun[8:], "big")
        count += begun[4:8] == kind
        if size < 8:  # to the end; or none
            break
        place += size
    return count


def _read_at(opened: BinaryIO, place: int, count: int) -> bytes:
    opened.seek(place)
    return opened.read(count)
