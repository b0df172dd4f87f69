"""Each frame's view of an object, cut out to one size: what the shape and its turning are read from.

The object's centre comes to the middle and its spread to a fixed length, so that neither place nor size
matters any more. Used by the scorer and, with random disturbances, by the training of its shape network.

Shapes: F frames, H, W pixels, P the side of a patch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latent_shift.moving_shapes.scorer.tracks import ObjectTrack

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

PATCH = 24
_HALF_WIDTH = 2.4  # of a patch, in units of the object's spread
_SOLID = 0.3


def sample(pictures: Floats, x: Floats, y: Floats, outside: float = 0.0) -> Floats:
    """Pictures (F, H, W) at the coordinates x, y (F, N), -1 to 1, interpolated linearly between pixels."""
    frames, height, width = pictures.shape
    padded = np.pad(pictures, ((0, 0), (1, 1), (1, 1)), constant_values=outside)
    column = np.clip((x + 1) * (width / 2) + 0.5, 0, width + 0.999)  # in padded pixels
    row = np.clip((y + 1) * (height / 2) + 0.5, 0, height + 0.999)
    left, top = column.astype(np.int64), row.astype(np.int64)
    across, down = (column - left).astype(np.float32), (row - top).astype(np.float32)
    flat = padded.reshape(-1)
    corner = (np.arange(frames)[:, None] * (height + 2) + top) * (width + 2) + left
    upper = flat[corner] * (1 - across) + flat[corner + 1] * across
    lower = flat[corner + width + 2] * (1 - across) + flat[corner + width + 3] * across
    return upper * (1 - down) + lower * down


def cut_out(cover: Floats, hidden: Mask, track: ObjectTrack, frame: Floats) -> Floats:
    """Patches (F, 2, P, P): coverage, and what cannot be seen (the other object, beyond the border).

    frame: (F, 2, 2) the matrix from patch axes to picture axes, the unit matrix where nothing is turned.
    """
    steps = (np.arange(PATCH, dtype=np.float32) + 0.5) * (2 * _HALF_WIDTH / PATCH) - _HALF_WIDTH
    v, u = (axis.ravel() for axis in np.meshgrid(steps, steps, indexing="ij"))
    offsets = (frame @ np.stack([u, v])) * track.spread[:, None, None]  # (F, 2, P*P)
    x, y = track.x[:, None] + offsets[:, 0], track.y[:, None] + offsets[:, 1]
    seen = sample(cover, x, y)
    unseen = sample(hidden.astype(np.float32), x, y, outside=1.0)
    return np.stack([seen, unseen], axis=1).reshape(-1, 2, PATCH, PATCH).astype(np.float32)


def turned(turns: Floats) -> Floats:
    """The matrices (F, 2, 2) that read an object turned clockwise by `turns` (F,) as if it stood upright."""
    angle = 2 * np.pi * turns
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2).astype(np.float32)
