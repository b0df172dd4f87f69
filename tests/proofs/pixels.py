"""Pixels of files, read by Pillow itself: hashed, and as thumbnails for other machines.

A thumbnail is the mean colour in a grid of 4 x 4 on every fourth frame, a string of hexadecimal bytes a
frame: coarse enough that arithmetic of another machine changes it by little, fine enough that another motion
changes it by much.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

GRID, EVERY = 4, 4
NEAR = 6  # levels of 255 that a cell of the grid may be off on another machine


def read(file: Path) -> np.ndarray:
    """All frames of a .webp or .png, uint8 (F, H, W, 3)."""
    with Image.open(file) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def sha256(frames: np.ndarray) -> str:
    """The hash of the pixels, whatever file they came from."""
    return hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()


def facts(frames: np.ndarray) -> dict[str, Any]:
    """What is frozen of a clip or image: shape, hash and thumbnail."""
    thumbnails = [_means(frame).tobytes().hex() for frame in frames[::EVERY]]
    return {"shape": list(frames.shape), "sha256": sha256(frames), "thumbnail": thumbnails}


def near(found: dict[str, Any], kept: dict[str, Any]) -> str | None:
    """What of one clip's facts is too far from another's; None if nothing is."""
    if found["shape"] != kept["shape"]:
        return f"the shape is {found['shape']}, not {kept['shape']}"
    off = int(max(_farthest(*pair) for pair in zip(found["thumbnail"], kept["thumbnail"], strict=True)))
    return f"a part of a frame is {off} levels off; {NEAR} are allowed" if off > NEAR else None


def _means(frame: np.ndarray) -> np.ndarray:
    height, width, _ = frame.shape
    cells = frame.reshape(GRID, height // GRID, GRID, width // GRID, 3)
    return cells.mean(axis=(1, 3)).round().astype(np.uint8)


def _farthest(one: str, other: str) -> int:
    first, second = (np.frombuffer(bytes.fromhex(text), np.uint8).astype(int) for text in (one, other))
    return int(abs(first - second).max())
