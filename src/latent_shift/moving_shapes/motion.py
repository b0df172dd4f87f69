"""Where a thing is, how large and how far turned, at each moment of its clip.

The paths of the Moving Shapes world, as functions of time; what is moving and where it starts is drawn in
`scene.py`. Every value is rounded to a grid of 2**-12, so that machines whose sine differs in the last bit
still draw the same pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latent_shift.moving_shapes.constants import (
    CIRCLING,
    DIRECTIONS,
    FLOOR,
    FRAMES,
    GROWTH,
    SPEED,
    SPINNING,
    SWING_PERIODS,
)

if TYPE_CHECKING:
    from latent_shift.moving_shapes.scene import Object

Floats = NDArray[np.float64]
_GRID = 4096.0


class Track(NamedTuple):
    """Centre (x, y), radius, and the cosine and sine of the clockwise turn; each (F,) on the 2**-12 grid."""

    x: Floats
    y: Floats
    radius: Floats
    cos: Floats
    sin: Floats


def frame_times(frames: NDArray[np.int64]) -> Floats:
    """Time of frame indices: frame f lies at t = f / 15."""
    return frames / (FRAMES - 1)


def track(thing: Object, t: Floats) -> Track:
    """The path of a thing at the times t (F,)."""
    still = np.zeros_like(t)
    x, y, radius, turn = still + thing.x, still + thing.y, still + thing.radius, still
    motion, speed = thing.motion, SPEED[thing.speed_word]
    if motion in DIRECTIONS:
        way = DIRECTIONS[motion]
        x = x + way[0] * thing.amount * speed * t
        y = y + way[1] * thing.amount * speed * t
    elif motion == "bouncing":
        within = (thing.bounces * t + thing.phase) % 1.0
        y = FLOOR - 4.0 * thing.amount * within * (1.0 - within)
    elif motion in CIRCLING:
        angle = 2.0 * np.pi * (CIRCLING[motion] * speed * t + thing.phase)
        x = x + thing.amount * np.cos(angle)
        y = y + thing.amount * np.sin(angle)
    elif motion in SPINNING:
        turn = SPINNING[motion] * thing.amount * speed * t
    elif motion == "growing":
        radius = thing.radius * (GROWTH[0] + (GROWTH[1] - GROWTH[0]) * t)
    elif motion == "shrinking":
        radius = thing.radius * (GROWTH[1] + (GROWTH[0] - GROWTH[1]) * t)
    elif motion == "swinging from side to side":
        x = x + thing.amount * np.sin(2.0 * np.pi * (SWING_PERIODS * t + thing.phase))
    angle = 2.0 * np.pi * turn
    return Track(*(np.rint(value * _GRID) / _GRID for value in (x, y, radius, np.cos(angle), np.sin(angle))))
