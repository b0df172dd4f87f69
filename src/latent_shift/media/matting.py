"""Transparency of clips on a flat ground: the share of each pixel that is picture, and its own colour.

A pixel at an edge is a mixture of the ground and the picture beside it: with the ground's colour known, and
the picture's taken from the nearest pixel that is all picture, its share follows. What is near the ground's
colour inside a picture, such as white eyes on white, stays: only what connects to the border is ground.

Shapes: F frames, H, W pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RGBA = NDArray[np.uint8]  # (F, H, W, 4), not premultiplied
_RIM = 2  # pixels of the border that tell the ground
_GROUND = (
    26.0  # distance from the ground, in colour levels, up to which a pixel that connects to it is ground
)
_FLAT = 30.0  # of the border from its median, in colour levels, up to which a ground is flat
_MIN_FLAT = 0.5  # share of the border's pixels
_EDGE = 3  # pixels from the ground, in which a picture's edge mixes with it


def remove_ground(frames: NDArray[np.uint8]) -> RGBA:
    """Make the flat ground of a clip (F, H, W, 3) transparent: uint8 (F, H, W, 4).

    Raises ValueError for a clip without a flat ground along its border.
    """
    pixels = frames.astype(np.float32)
    sides = (pixels[:, :_RIM], pixels[:, -_RIM:], pixels[:, :, :_RIM], pixels[:, :, -_RIM:])
    rim = np.concatenate([side.reshape(-1, 3) for side in sides])
    ground = np.median(rim, axis=0)
    flat = float((np.linalg.norm(rim - ground, axis=1) <= _FLAT).mean())
    if flat < _MIN_FLAT:
        raise ValueError(
            f"a clip has no flat ground that could be made transparent: {100 * flat:.0f} % of its border is"
            f" of one colour, {100 * _MIN_FLAT:.0f} % are needed; name a ground in the prompt, or leave"
            " --background out"
        )
    return np.stack([_matte(frame, ground) for frame in pixels])


def _matte(frame: NDArray[np.float32], ground: NDArray[np.float32]) -> NDArray[np.uint8]:
    """One frame (H, W, 3) with its alpha, (H, W, 4)."""
    from scipy import ndimage  # takes as long to import as all of this room

    distance = np.linalg.norm(frame - ground, axis=-1)
    near = distance <= _GROUND
    labels, _ = ndimage.label(near)
    outer = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    outside = np.isin(labels, np.unique(outer[outer > 0]))
    if not outside.any():
        return np.dstack([frame, np.full(frame.shape[:2], 255)]).astype(np.uint8)
    depth = ndimage.distance_transform_edt(~outside)
    edge = ~outside & (depth < _EDGE)
    inside = depth >= _EDGE
    colour, alpha = frame.copy(), np.where(outside, 0.0, 1.0)
    # A thin part has no inside: its own most distant pixels take that place.
    strongest = ndimage.maximum_filter(distance, 2 * _EDGE - 1)
    solid = inside | (edge & (distance >= 0.9 * strongest))
    _, (rows, columns) = ndimage.distance_transform_edt(~solid, return_indices=True)
    behind = frame[rows, columns]
    direction = behind - ground
    share = ((frame - ground) * direction).sum(axis=-1) / np.maximum((direction**2).sum(axis=-1), 1.0)
    mixed = edge & ~solid
    alpha[mixed] = np.clip(share[mixed], 0, 1)
    # The colour without the ground's part, where enough of it is left to tell.
    clear = mixed & (alpha > 0.1)
    weight = alpha[clear][:, None]
    colour[clear] = (frame[clear] - (1 - weight) * ground) / weight
    faint = (mixed & ~clear) | outside
    colour[faint] = behind[faint]
    return np.dstack([np.clip(np.rint(colour), 0, 255), np.rint(255 * alpha)]).astype(np.uint8)
