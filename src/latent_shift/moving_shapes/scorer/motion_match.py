"""Which of the world's 17 motions an object makes: path, growth and turning taken together.

Exactly one of the three may happen: an object that travels and spins at once shows no motion of this world,
and the answer is None, as it is where path, size or turning jumps about.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from latent_shift.moving_shapes import constants
from latent_shift.moving_shapes.scorer.paths import find_path
from latent_shift.moving_shapes.scorer.tracks import ObjectTrack
from latent_shift.moving_shapes.scorer.turning import MOST_TURNS, Turning

_LEAST_GROWTH = 0.45  # change of size over the clip, in units of the mean size; growing shows 1.09
_LEAST_TURNS = 0.25
_LEAST_GAIN = 0.3  # in agreement, by turning the frames back: real spins gain over 0.8
_LEAST_AGREEMENT = 0.5  # of the frames turned back: real clips show over 0.85, shuffled ones of a spin 0.2
_SIZE_TOLERANCE = (
    0.15  # distance from a steady change, in units of the mean size, at which a frame counts half
)
_MOST_UNSTEADY = 0.2  # mean loss above which a size does not change steadily: real clips show under 0.04
_LEAST_RELIEF = 0.004
_WOBBLE = (
    0.18  # how far the middle of a spinning shape may stray: digits do not turn about their centre of mass
)
_LARGEST_STEP = 0.49  # of a symmetric shape's repeat, from frame to frame
_ROUNDS = 4
_LEEWAY = 1.1  # on a speed word's range


class Motion(NamedTuple):
    """name: as in `world.MOTIONS`, or None. amount: of a travel, circling or spin, in the world's units."""

    name: str | None
    amount: float = 0.0


def match_motion(track: ObjectTrack, turning: Turning, shape: str | None) -> Motion:
    """The motion of an object of a known shape (which bounds what turning can be seen)."""
    path = find_path(track)
    growth, turns = size_change(track), spin(turning, shape, len(track.x))
    if growth is None or turns is None:
        return Motion(None)
    grows = abs(growth) > _LEAST_GROWTH
    moves = path.kind != "standing still" and not (turns and _stray(track) < _WOBBLE)
    if moves + grows + (turns != 0) > 1:
        return Motion(None)
    if grows:
        return Motion("growing" if growth > 0 else "shrinking")
    if turns:
        return Motion("spinning clockwise" if turns > 0 else "spinning counterclockwise", abs(turns))
    return Motion(path.kind, path.turns if path.kind in constants.CIRCLING else path.extent)


def _stray(track: ObjectTrack) -> float:
    """Median distance from the median place."""
    x, y = track.x[track.present], track.y[track.present]
    return float(np.median(np.hypot(x - np.median(x), y - np.median(y)))) if len(x) else 0.0


def size_change(track: ObjectTrack) -> float | None:
    """Change of size from first to last frame, in units of the mean size; None where it is not steady."""
    t = np.linspace(-0.5, 0.5, len(track.size))
    weight = track.trust.astype(np.float64)
    if (weight > 0).sum() < 3:
        return 0.0
    scale = max(float(np.median(track.size[track.present])), 1e-6)
    size = track.size / scale
    for _ in range(_ROUNDS):
        slope, middle = np.polyfit(t, size, 1, w=np.sqrt(weight))
        squared = ((size - middle - slope * t) / _SIZE_TOLERANCE) ** 2
        weight = track.trust / (1 + squared) ** 2
    loss = float((track.trust * squared / (1 + squared)).sum() / track.trust.sum())
    if loss > _MOST_UNSTEADY:
        return None
    return float(slope / max(middle, 0.1))


def spin(turning: Turning, shape: str | None, frames: int) -> float | None:
    """Turns over the clip, clockwise positive; 0 where none is seen, None where it turns unsteadily."""
    if shape in constants.UNTURNABLE or turning.relief < _LEAST_RELIEF or frames < 3:
        return 0.0
    most = MOST_TURNS
    if shape in constants.SYMMETRY:
        most = min(most, _LARGEST_STEP * (frames - 1) / constants.SYMMETRY[shape])
    turns = turning.best(most)
    if turning.at(turns) < _LEAST_AGREEMENT:
        return None
    gain = turning.at(turns) - turning.at(0.0)
    return turns if abs(turns) >= _LEAST_TURNS and gain >= _LEAST_GAIN else 0.0


def speed_fits(motion: Motion, speed_word: str) -> bool:
    """Whether a motion's amount lies in the range of a speed word, "" for none, with a tenth of leeway."""
    if motion.name is None or not constants.takes_speed(motion.name):
        return speed_word == ""
    if motion.name in constants.CIRCLING:
        low, high = 0.85, 1.15
    elif motion.name in constants.SPINNING:
        low, high = constants.SPIN_TURNS
    else:
        straight = 0 in constants.DIRECTIONS[motion.name]
        low, high = constants.STRAIGHT_TRAVEL if straight else constants.DIAGONAL_TRAVEL
    factor = constants.SPEED[speed_word]
    return low * factor / _LEEWAY <= motion.amount <= high * factor * _LEEWAY
