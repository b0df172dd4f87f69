"""Pictures that may move: GIF, WebP, PNG, JPEG and BMP, their frames on an even clock, and what they hold.

The formats give each frame a time of its own, and join equal neighbours into one frame that is shown for
longer; a clip has a rate. A frame without a time is shown for 100 ms, as in browsers and FFmpeg.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from latent_shift.limits import MAX_FPS, MIN_FPS
from latent_shift.media.damage import lacks_rows
from latent_shift.media.decode import (
    BROKEN,
    PICTURE_FORMATS,
    Kind,
    collect,
    is_heic,
    kind_by_name,
)
from latent_shift.media.pixels import HDR, Picture, exif_of, hdr_note, picture_pixels

SETTINGS_KEY = "latent_shift"  # the JSON in a file is {"latent_shift": {...}}: not just anybody's comment
CLOCK_KEY = "latent_shift_clock"  # [frames a second, frames] of a clip written as a moving picture
EXIF_DESCRIPTION = 0x010E
CUT_GIF = "is perhaps cut short: the mark of its end is missing"
NO_TIME = 100.0  # milliseconds that a frame of no time is shown
MAX_TICKS = 100_000  # frames that a picture may be shown as
_HEAD = 1 << 16  # bytes, before which a PNG says whether it moves


class Clock(NamedTuple):
    """Frames a second, and frames in all (0: not known)."""

    fps: float
    frames: int


class Pictures(NamedTuple):
    """The frames stored in a picture, still or moving, and an even clock."""

    stored: list[Picture]
    ticks: NDArray[np.int64]  # of the clock, that each is shown
    fps: float  # ticks a second; 1 of a still
    notes: tuple[str, ...] = ()  # remarks, as "is perhaps cut short: ..."


def read_pictures(opened: BinaryIO, max_frames: int | None) -> Pictures:
    """Decode a picture, `max_frames` stored frames at most.

    Its clock is that which `write_clip` put into the file, else that of the shortest frame.
    """
    durations: list[float] = []  # milliseconds
    black_ends: list[bool] = []  # of the frames of a PNG
    colors = _named_colors(opened)
    with Image.open(opened, formats=PICTURE_FORMATS) as image:
        clock = embedded_clock(image)
        is_webp = image.format == "WEBP"  # its writer turns a clip of equal frames into a still
        is_png, interlaced = image.format == "PNG", bool(image.info.get("interlace"))

        def stored() -> Iterator[Picture]:
            for number, frame in enumerate(ImageSequence.Iterator(image)):
                if number == 0 and getattr(image, "default_image", False):
                    continue  # a still for readers that know no moving PNG
                frame.load()
                durations.append(float(frame.info.get("duration", 0)))
                if is_png:
                    last_row = frame.crop((0, frame.height - 1, frame.width, frame.height))
                    black_ends.append(not np.asarray(last_row).any())
                yield picture_pixels(frame, colors)
                if image.format == "MPO":
                    return  # a photograph; what follows are smaller copies and depths

        frames = collect(stored(), max_frames)
    # To inflate again what Pillow did takes time: only where rows may be missing.
    if is_png and (len(frames) > 1 or interlaced or any(black_ends)):
        opened.seek(0)
        if lacks_rows(opened.read()):
            raise ValueError("is cut short: rows of its pixels are missing")
    if len(frames) == 1 and not durations[0]:
        ticks = np.array([clock.frames if clock is not None and is_webp else 1])
        fps = clock.fps if clock is not None and ticks[0] > 1 else 1.0
    else:
        ticks, fps = _ticks(np.array([duration or NO_TIME for duration in durations]), clock)
    if ticks.sum() > MAX_TICKS:
        raise ValueError(f"would be {ticks.sum()} frames of {1000 / fps:g} ms each, over {MAX_TICKS}")
    notes = (CUT_GIF,) if max_frames is None and _is_cut_gif(opened) else ()
    if colors is not None and colors[1] in HDR:
        notes = (*notes, hdr_note(colors[1]))
    return Pictures(frames, ticks, fps, notes)


def _named_colors(opened: BinaryIO) -> tuple[int, int] | None:
    """Primaries and curve of a PNG that names them by ITU-T H.273's numbers, as frames of HDR films do."""
    head = opened.read(_HEAD)
    opened.seek(0)
    place = head.find(b"\0\0\0\4cICP", 8, head.find(b"IDAT")) if head.startswith(b"\x89PNG") else -1
    return (head[place + 8], head[place + 9]) if 0 <= place < len(head) - 10 else None


def _is_cut_gif(opened: BinaryIO) -> bool:
    """Whether the content is a GIF without the mark of its end: one cut between two frames is whole else."""
    opened.seek(0)
    data = opened.read()
    return data.startswith(b"GIF8") and not _gif_blocks(data)[1]


def _ticks(durations: np.ndarray, clock: Clock | None) -> tuple[np.ndarray, float]:
    """Number of ticks that each stored frame is shown, and their rate."""
    ends = np.cumsum(durations) / 1000
    if clock is not None:
        ticks = np.diff(np.round(ends * clock.fps).astype(int), prepend=0)
        if ticks.min() >= 1:
            return ticks, clock.fps
    tick = 10 if not (durations % 10).any() else 1  # milliseconds; of a gif's times, and of others'
    fps = 1000 / float(durations[durations <= durations.min() + tick].mean())
    return np.maximum(np.diff(np.round(ends * fps).astype(int), prepend=0), 1), fps


def picture_settings(image: Image.Image) -> dict[str, Any] | None:
    """The settings inside a picture, wherever its format keeps a comment; None without any."""
    return parse_settings(_comment(image))


def embedded_clock(image: Image.Image) -> Clock | None:
    """The clock inside a picture; of one that an earlier version wrote that of its settings."""
    comment = _comment(image)
    settings = parse_settings(comment) or {}
    found = _parse(comment).get(CLOCK_KEY, [settings.get("fps"), settings.get("frames")])
    fps, frames = found if isinstance(found, list) and len(found) == 2 else (None, None)
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not MIN_FPS <= fps <= MAX_FPS:
        return None
    return Clock(float(fps), frames if isinstance(frames, int) and 0 < frames <= MAX_TICKS else 1)


def parse_settings(comment: str | bytes) -> dict[str, Any] | None:
    """The settings in a comment; None for anybody else's."""
    settings = _parse(comment).get(SETTINGS_KEY)
    return settings if isinstance(settings, dict) else None


def _parse(comment: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(comment, parse_constant=_no_json)
    except (ValueError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _no_json(constant: str) -> None:
    """Refuse NaN and infinities, which Python's reader takes for JSON and nobody else's does."""
    raise ValueError(f"{constant} is not JSON")


def _comment(image: Image.Image) -> str | bytes:
    comment = image.info.get("comment") or image.info.get("Comment")  # of a gif, of a png
    return comment or exif_of(image).get(EXIF_DESCRIPTION, "")


def kind_of(name: str, read: Callable[[int], bytes]) -> Kind | None:
    """Kind of a file: by its suffix, but of one named as a picture by what it holds, which may move.

    read: gives the first so many bytes of the file, all for -1. Nothing is decoded; a file that breaks off,
    or holds something else, stays what its name says, for whoever reads it to find out.
    """
    if kind_by_name(name) != "image" and PurePath(name).suffix.lower() != ".gif":
        return kind_by_name(name)
    head = read(12)
    if head.startswith((b"\xff\xd8\xff", b"BM")) or is_heic(head):
        return "image"
    if head[4:8] == b"ftyp" or head[:4] == b"\x1a\x45\xdf\xa3" or head[8:12] == b"AVI ":
        return "clip"
    if head.startswith(b"\x89PNG"):
        head = read(_HEAD)
        if b"IDAT" not in head:  # a long profile of colours comes first
            head = read(-1)
        place = head.find(b"acTL", 0, head.find(b"IDAT") if b"IDAT" in head else None)
        return "clip" if place >= 0 and int.from_bytes(head[place + 4 : place + 8], "big") > 1 else "image"
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    if is_webp and read(16)[12:] != b"VP8X":
        return "image"
    if not is_webp and not head.startswith(b"GIF8"):
        return kind_by_name(name)
    whole = read(-1)
    if (_count_webp_frames(whole) if is_webp else _gif_blocks(whole, 2)[0]) > 1:
        return "clip"
    if SETTINGS_KEY.encode() in whole:  # of ours, equal frames may be stored as one
        try:
            return "clip" if read_pictures(io.BytesIO(whole), 2).ticks.sum() > 1 else "image"
        except BROKEN:
            return "image"
    return "image"


def kind_of_file(path: Path) -> Kind | None:
    """Kind of a file on a disk (`kind_of`). Raises OSError where it cannot be opened."""

    def read(count: int) -> bytes:
        with path.open("rb") as file:
            return file.read(count)

    return kind_of(path.name, read)


def _count_webp_frames(data: bytes) -> int:
    """The frames of an animated WebP, up to 2; 0 of a still."""
    count, place = 0, 12
    while place + 8 <= len(data) and count < 2:
        count += data[place : place + 4] == b"ANMF"
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    return count


def _gif_blocks(data: bytes, most: int | None = None) -> tuple[int, bool]:
    """The frames of a GIF, up to `most`, and whether the mark of its end follows."""
    count, place = 0, 13 + _color_table(data, 10)
    while place < len(data) and count != most and data[place] in b"!,":
        if data[place] == ord("!"):
            place += 2
        else:
            count += 1
            place += 11 + _color_table(data, place + 9)
        while place < len(data) and data[place]:
            place += 1 + data[place]
        place += 1
    return count, data[place : place + 1] == b";"


def _color_table(data: bytes, place: int) -> int:
    """Bytes of the colours announced by the flags at a place."""
    flags = data[place] if place < len(data) else 0
    return 3 << (flags % 8 + 1) if flags & 128 else 0
