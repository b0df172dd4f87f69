"""Where an object is in each frame, how large it is, and how far each frame can be trusted.

The second step of the Moving Shapes scorer: from coverage to numbers. What is being drawn is not asked here.
Coordinates are the world's: -1 (left, top) to +1 (right, bottom).

Shapes: F frames, H, W pixels (square pictures).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

_LEAST_MASS = 4.0  # pixels; less is no object
_LEAST_PEAK = 0.4
_CUT, _TOUCHED = 0.15, 0.5  # trust in a frame where the object is cut by the border, or met by the other one
_SOLID = 0.3


@dataclass(frozen=True)
class ObjectTrack:
    """One object over a clip; every array (F,). Where `present` is false the other values mean nothing.

    x, y: centre of mass. size: square root of the covered area. spread: root mean square distance of its
    parts from the centre. trust: 0 to 1.
    """

    present: Mask
    x: Floats
    y: Floats
    size: Floats
    spread: Floats
    trust: Floats


def follow(cover: Floats, hidden: Mask) -> ObjectTrack:
    """The track of an object by its coverage (F, H, W); hidden: pixels (F, H, W) that the other covers."""
    side = cover.shape[-1]
    grid = ((np.arange(side, dtype=np.float32) + 0.5) * 2 / side) - 1
    mass = cover.sum(axis=(1, 2))
    safe = np.maximum(mass, 1e-6)
    columns, rows = cover.sum(axis=1), cover.sum(axis=2)  # (F, W), (F, H)
    x, y = columns @ grid / safe, rows @ grid / safe
    variance = columns @ grid**2 / safe - x**2 + rows @ grid**2 / safe - y**2
    solid = cover > _SOLID
    cut = solid[:, [0, -1], :].any(axis=(1, 2)) | solid[:, :, [0, -1]].any(axis=(1, 2))
    rim = ndimage.maximum_filter(solid.view(np.uint8), size=(1, 5, 5)).astype(bool)
    touched = (rim & hidden).any(axis=(1, 2))
    present = (mass >= _LEAST_MASS) & (cover.max(axis=(1, 2)) >= _LEAST_PEAK)
    trust = np.where(cut, _CUT, 1.0) * np.where(touched, _TOUCHED, 1.0) * present
    spread = np.sqrt(np.maximum(variance, (1.0 / side) ** 2))
    size = np.sqrt(mass) * 2 / side
    return ObjectTrack(present, x, y, size, spread, trust.astype(np.float32))
