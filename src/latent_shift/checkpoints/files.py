"""Safetensors files as they lie on the disk: whether they are whole, what they hold, their hashes.

Reads headers, not weights, and needs no torch. Not the place that knows what a model is made of.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself: the shape of each tensor by its key, and its free metadata."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def read_header(file: Path) -> Header:
    """The header of a safetensors file. Raises ValueError for a missing, truncated, damaged or other file."""
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    try:
        with safe_open(file, framework="numpy") as opened:
            shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
            return Header(shapes, opened.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file}: is no safetensors file, or is truncated or damaged ({error}); fetch it again"
        ) from error


def file_hash(file: Path) -> str:
    """The first 12 hexadecimal digits of a file's SHA-256."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]
