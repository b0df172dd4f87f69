"""Contents of one clip: a background and one or two objects, each with its appearance, motion and position.

A scene is a description: `render.py` draws it, `captions.py` words it, `sampling.py` makes random ones.
`trajectory` gives an object's position, size and rotation at any time of the clip.

Shape legend: F frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latent_shift.moving_shapes.constants import (
    CHANGES_OF_SIZE,
    CIRCLING,
    DIRECTIONS,
    FLOOR,
    FRAMES,
    GROWTH,
    SPEED,
    SPINNING,
    SWING_PERIODS,
    names_held_out,
)

Floats = NDArray[np.float64]
_GRID = 4096.0


@dataclass(frozen=True)
class Object:
    """One object. Names are those of `constants.py`; "" for a size or speed that the caption leaves out.

    radius: before growing or shrinking. x, y: start of a travel, centre of any other motion. amplitude:
    length of a travel on each axis it moves along, height of a bounce, radius of circling, turns of a spin or
    half width of a swing, before the speed word; otherwise 0. phase: of a bounce, circling or swing, 0 to 1
    of a cycle. bounces: in a clip. glyph: index of the handwritten digit, -1 for drawn shapes.
    """

    colour: str
    shape: str
    motion: str
    size_word: str
    speed_word: str
    radius: float
    x: float
    y: float
    amplitude: float
    phase: float
    bounces: int
    glyph: int

    @property
    def held_out(self) -> bool:
        """Whether this combination of colour, shape and motion is excluded from training."""
        return names_held_out(self.colour, self.shape, self.motion)


@dataclass(frozen=True)
class Scene:
    """Contents of one clip: the background's name and one or two objects, later ones drawn over earlier."""

    background: str
    objects: tuple[Object, ...]

    @property
    def held_out(self) -> bool:
        """Whether any object is held out."""
        return any(obj.held_out for obj in self.objects)


class Trajectory(NamedTuple):
    """Centre (x, y), radius, cosine and sine of the clockwise rotation; each (F,) on a grid of 2**-12."""

    x: Floats
    y: Floats
    radius: Floats
    cos: Floats
    sin: Floats


def frame_times(frames: NDArray[np.int64]) -> Floats:
    """Times of frame indices: frame f lies at t = f / 15."""
    return frames / (FRAMES - 1)


def trajectory(obj: Object, t: Floats) -> Trajectory:
    """Position, size and rotation of an object at times t (F,)."""
    zero = np.zeros_like(t)
    x, y, radius, turns = zero + obj.x, zero + obj.y, zero + obj.radius, zero
    motion, speed = obj.motion, SPEED[obj.speed_word]
    if motion in DIRECTIONS:
        direction = DIRECTIONS[motion]
        x = x + direction[0] * obj.amplitude * speed * t
        y = y + direction[1] * obj.amplitude * speed * t
    elif motion == "bouncing":
        cycle = (obj.bounces * t + obj.phase) % 1.0
        y = FLOOR - 4.0 * obj.amplitude * cycle * (1.0 - cycle)
    elif motion in CIRCLING:
        angle = 2.0 * np.pi * (CIRCLING[motion] * speed * t + obj.phase)
        x = x + obj.amplitude * np.cos(angle)
        y = y + obj.amplitude * np.sin(angle)
    elif motion in SPINNING:
        turns = SPINNING[motion] * obj.amplitude * speed * t
    elif motion in CHANGES_OF_SIZE:
        first, last = GROWTH[obj.size_word] if motion == "growing" else GROWTH[obj.size_word][::-1]
        radius = obj.radius * (first + (last - first) * t)
    elif motion == "swinging from side to side":
        x = x + obj.amplitude * np.sin(2.0 * np.pi * (SWING_PERIODS * t + obj.phase))
    angle = 2.0 * np.pi * turns
    # Rounded, so that machines with a sine that differs in the last bit still draw the same pixels.
    values = (x, y, radius, np.cos(angle), np.sin(angle))
    return Trajectory(*(np.rint(value * _GRID) / _GRID for value in values))
