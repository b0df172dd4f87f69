"""Contents of one clip of emoji: a picture of a pack on a flat ground, where it is, how it moves.

A scene is a description: `render.py` draws it, `captions.py` words it, `draw_scene` makes random ones.

Shape legend: F frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latent_shift.emoji import constants
from latent_shift.moving_shapes.constants import (
    DIAGONAL_TRAVEL,
    DIRECTIONS,
    GROWTH,
    SPIN_TURNS,
    SPINNING,
    STRAIGHT_TRAVEL,
    Range,
)
from latent_shift.rng import choice, uniform

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """One clip of a pack on a ground.

    clip: number in the pack. start: frame of the loop that the window begins with. motion: of `MOTIONS`, ""
    of a plain clip. size: part of the frame that the picture fills. x, y: its centre, of a travel where that
    starts. amplitude: length of a travel on each axis that it moves along, or turns of a spin. says_style:
    whether the caption names the style. scatter: seed of other sizes and places in each frame, 0 for none.
    """

    clip: int
    start: int
    ground: str
    motion: str = ""
    size: float = 0.8
    x: float = 0.0
    y: float = 0.0
    amplitude: float = 0.0
    says_style: bool = False
    scatter: int = 0


class Placement(NamedTuple):
    """Centre (x, y), size and clockwise rotation in turns of the picture in each frame, (F,) each."""

    x: Floats
    y: Floats
    size: Floats
    turns: Floats


def placement(scene: Scene, t: Floats) -> Placement:
    """Placement of the picture at times t (F,), from 0 at the clip's start to 1 at its end."""
    zero = np.zeros_like(t)
    x, y, size, turns = zero + scene.x, zero + scene.y, zero + scene.size, zero
    if scene.scatter:
        rng = np.random.Generator(np.random.Philox(key=[scene.scatter, 0]))
        low, high = constants.COMPOSED_SIZE[0], constants.SIZE[1]
        size = np.array([uniform(rng, low, high) for _ in range(constants.FRAMES)])
        x, y = (
            np.array([uniform(rng, -1, 1) * max(constants.OFF_CENTRE, 1 - side) for side in size])
            for _ in "xy"
        )
        frames = np.rint(t * (constants.FRAMES - 1)).astype(int)
        x, y, size = x[frames], y[frames], size[frames]
    elif scene.motion in DIRECTIONS:
        across, down = DIRECTIONS[scene.motion]
        x, y = x + across * scene.amplitude * t, y + down * scene.amplitude * t
    elif scene.motion in SPINNING:
        turns = SPINNING[scene.motion] * scene.amplitude * t
    elif scene.motion in ("growing", "shrinking"):
        first, last = GROWTH[""] if scene.motion == "growing" else GROWTH[""][::-1]
        size = scene.size * (first + (last - first) * t)
    return Placement(x, y, size, turns)


def draw_ground(rng: np.random.Generator) -> str:
    """White in half of the clips, else any of the other grounds."""
    others = [name for name in constants.GROUNDS if name != constants.DEFAULT_GROUND]
    return constants.DEFAULT_GROUND if rng.random() < 0.5 else choice(rng, others)


def place_plain(
    rng: np.random.Generator, sizes: Range = constants.SIZE, *, centred: bool = False
) -> dict[str, Any]:
    """Size and centre of a clip without a motion.

    Args:
        rng: of the clip.
        sizes: the least and the most part of the frame that the picture fills.
        centred: put it into the middle of the frame.
    """
    x, y = (0.0 if centred else uniform(rng, -constants.OFF_CENTRE, constants.OFF_CENTRE) for _ in range(2))
    return {"size": uniform(rng, *sizes), "x": x, "y": y}


def place_composed(
    motion: str, rng: np.random.Generator, sizes: Range = constants.COMPOSED_SIZE, *, centred: bool = False
) -> dict[str, Any]:
    """Size, centre and amplitude of a clip with a motion, inside the frame.

    Args:
        motion: of `MOTIONS`.
        rng: of the clip.
        sizes: the least and the most part of the frame that the picture fills.
        centred: put the middle of the way into the frame's, its length the mean one.
    """
    size = uniform(rng, *sizes)
    room = 1 - size * constants.FILLED  # of the centre, on each side of the middle

    def drawn(between: Range) -> float:
        return sum(between) / 2 if centred else uniform(rng, *between)

    if motion in DIRECTIONS:
        direction = DIRECTIONS[motion]
        length = min(drawn(DIAGONAL_TRAVEL if all(direction) else STRAIGHT_TRAVEL), 2 * room)
        x, y = (
            drawn((-room, room - length)) * (sign or 1) if sign else drawn((-room, room))
            for sign in direction
        )
        return {"size": size, "x": x, "y": y, "amplitude": length}
    if motion in ("growing", "shrinking"):
        room = max(1 - size * constants.FILLED * GROWTH[""][1], 0)
    x, y = drawn((-room, room)), drawn((-room, room))
    amplitude = drawn(SPIN_TURNS) if motion in SPINNING else 0.0
    return {"size": size, "x": x, "y": y, "amplitude": amplitude}
