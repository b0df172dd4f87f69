"""Scenes that a caption is almost right about: another shape, or another motion, all else the same.

What captions they give are nearly true of a clip, and false: a tower that tells them from the true one has
looked at shapes and motions, not at colours alone (hard negative texts, arXiv 2210.01936). Never a held-out
combination: those are not in any caption that is trained on.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from latent_shift.moving_shapes import constants
from latent_shift.moving_shapes.scene import Object, Scene
from latent_shift.rng import choice


def hard_negatives(scene: Scene, count: int, rng: np.random.Generator) -> list[Scene]:
    """`count` scenes, in turn with another motion and another shape of one thing; to be told, not drawn."""
    return [_changed(scene, number % 2 == 0, rng) for number in range(count)]


def _changed(scene: Scene, in_motion: bool, rng: np.random.Generator) -> Scene:
    """The scene with another motion of one of its things, or else another shape."""
    place = int(rng.random() * len(scene.things))
    thing = scene.things[place]
    kind = constants.DIGITS if constants.is_digit(thing.shape) else constants.DRAWN_SHAPES
    while True:
        if in_motion:
            other = _moving(thing, choice(rng, constants.MOTIONS))
        else:
            other = replace(thing, shape=choice(rng, kind))
        if other != thing and constants.can_move(other.shape, other.motion) and not other.held_out:
            return replace(scene, things=(*scene.things[:place], other, *scene.things[place + 1 :]))


def _moving(thing: Object, motion: str) -> Object:
    """The thing with another motion, told without a speed where that motion has none."""
    return replace(thing, motion=motion, speed_word=thing.speed_word if constants.takes_speed(motion) else "")
