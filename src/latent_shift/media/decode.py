"""Opening of clips and images: containers, the stream that is shown, and errors that name the file.

A file is opened by its content, never by its name: a JPEG named clip.mp4 is an image. Names matter only for
sorting whole folders (`kind_by_name`).
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import BinaryIO, Literal

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from latent_shift.io import one_line
from latent_shift.media.pixels import Picture

Frames = NDArray[np.uint8]  # (F, H, W, 3)
Kind = Literal["clip", "image"]

CLIP_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".divx", ".mpg", ".mpeg", ".vob", ".ts", ".mts",
    ".m2ts", ".3gp", ".3g2", ".flv", ".f4v", ".ogv", ".wmv", ".asf", ".gif",
)  # fmt: skip
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp")
PICTURE_FORMATS = ("GIF", "WEBP", "PNG", "JPEG", "BMP")
# What FFmpeg may open: plain containers, so that no playlist in a stranger's file makes it fetch other files.
VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,ogg,asf"
# Pictures in the container of mp4, of which FFmpeg gives one tile, or one frame as if of a film.
_PICTURE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
MAX_DECODED_BYTES = 4 * 2**30
# Whatever FFmpeg and Pillow raise for a file that is not as it should be.
BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
    ZeroDivisionError, struct.error, zlib.error, Image.DecompressionBombError, av.FFmpegError,
)  # fmt: skip


@dataclass(frozen=True)
class HeldFile:
    """A file held in memory, such as a member of a tar; its name stands in errors."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


StrPath = str | os.PathLike[str]
File = StrPath | HeldFile


def kind_by_name(name: str) -> Kind | None:
    """Kind of file by its suffix; None where it is none of CLIP_SUFFIXES and IMAGE_SUFFIXES."""
    suffix = PurePath(name).suffix.lower()
    if suffix in CLIP_SUFFIXES:
        return "clip"
    return "image" if suffix in IMAGE_SUFFIXES else None


class EndsEarlyError(ValueError):
    """A clip that is sound as far as it goes, and does not go as far as requested."""


@contextmanager
def named_errors(file: File) -> Iterator[None]:
    """Turn whatever a decoder raises for a bad or missing file into a ValueError that names the file."""
    if not isinstance(file, HeldFile):
        try:
            is_file, is_there = Path(file).is_file(), Path(file).exists()
        except OSError as error:  # of the folders above
            raise ValueError(f"{file}: cannot be read: {error.strerror}") from error
        if not is_file:
            raise ValueError(f"{file}: {'is not a file' if is_there else 'no such file'}")
    try:
        yield
    except BROKEN as error:
        reason = getattr(error, "strerror", None) or one_line(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # whose message shows an object of Python
            reason = "its beginning is damaged"
        elif isinstance(error, av.InvalidDataError | av.PermissionError):
            reason = "is damaged, cut off, or holds something else"
        kind = EndsEarlyError if isinstance(error, EndsEarlyError) else ValueError
        raise kind(f"{file}: cannot be read as a clip or image: {reason}") from error


def open_bytes(file: File) -> BinaryIO:
    """Open the file's content to read and seek in. Raises ValueError for an empty one."""
    opened: BinaryIO = io.BytesIO(file.data) if isinstance(file, HeldFile) else open(file, "rb")  # noqa: SIM115
    if not opened.read(1):
        opened.close()
        raise ValueError("is empty")
    opened.seek(0)
    return opened


def is_heic(head: bytes) -> bool:
    """Whether a file that begins with these 12 bytes is a picture in HEIC or AVIF."""
    return head[4:8] == b"ftyp" and head[8:12] in _PICTURE_BRANDS


def holds_picture(opened: BinaryIO) -> bool:
    """Whether the content is a GIF, WebP, PNG, JPEG or BMP by its first bytes."""
    head = opened.read(12)
    opened.seek(0)
    riff = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return riff or head.startswith((b"GIF8", b"\x89PNG", b"\xff\xd8\xff", b"BM"))


def open_video(opened: BinaryIO) -> av.container.InputContainer:
    """Open a container of a video. Raises ValueError for a format that is not one of VIDEO_FORMATS."""
    head = opened.read(12)
    opened.seek(0)
    if is_heic(head):
        raise ValueError("is a picture in HEIC or AVIF, which are not read; convert it to png or jpg")
    try:
        return av.open(opened, "r", metadata_errors="replace", options={"format_whitelist": VIDEO_FORMATS})
    except av.ArgumentError as error:
        raise ValueError("is of a format that is not read; convert it, as to mp4 or png") from error


def video_stream(container: av.container.InputContainer) -> av.video.stream.VideoStream:
    """The video that players show: the default one, else the largest, else the first; no cover picture.

    Raises ValueError where there is none that FFmpeg decodes.
    """
    films = [
        stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic
    ]
    known = [film for film in films if getattr(film, "codec_context", None) is not None]
    if not known:
        if films:
            raise ValueError("is of an unknown codec")
        raise ValueError("holds no video" + (", only a cover picture" if container.streams.video else ""))
    return max(known, key=lambda film: (film.disposition & Disposition.default, film.width * film.height))


def collect(images: Iterator[Picture], max_frames: int | None) -> list[Picture]:
    """List the images. Raises ValueError if there are none, sizes differ, or they exceed the memory limit."""
    frames: list[Picture] = []
    for image in islice(images, max_frames):
        if frames and image.shape != frames[0].shape:
            raise ValueError(f"frame {len(frames)} is {image.shape[:2]}, the first one {frames[0].shape[:2]}")
        frames.append(image)
        if image.nbytes * len(frames) > MAX_DECODED_BYTES:
            raise ValueError(f"over {MAX_DECODED_BYTES >> 30} GiB decoded; read it in part with max_frames")
    if not frames:
        raise ValueError("holds no frame that can be decoded")
    return frames
