"""Naming of motions: which of the world's 17 motions an object makes, from its track and rotation.

Three measurements count: the path of the centre, the change of size and the rotation. At most one may show a
motion: an object that travels and spins at once has none of this world's motions, and neither has one with an
irregular path, size or rotation.

Every path of the world is a sum of known curves once its speed and phase are fixed. All of them, over a grid
of speeds and phases, are fitted at once by robust least squares; the path with the least loss wins, if the
loss is small enough.

Shape legend: F frames, N candidate paths with at most 4 coefficients each; points are (2F,), all x then all
y.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latent_shift.moving_shapes import constants
from latent_shift.moving_shapes.scorer.tracking import MAX_TURNS, ObjectTrack, RotationSpectrum

Floats = NDArray[np.float64]

_CIRCLING_TURNS = np.arange(0.4, 1.75, 0.1)
_SWING_PERIODS = np.arange(1.3, 1.75, 0.1)
_BOUNCES = np.arange(2.8, 4.3, 0.2)
_BOUNCE_PHASES = np.arange(0, 1, 1 / 24)
_MIN_TRAVEL, _MIN_RADIUS, _MIN_SWING, _MIN_HEIGHT = 0.22, 0.18, 0.2, 0.3
_PATH_TOLERANCE = 0.08  # distance from the path at which a frame counts half
_MAX_PATH_LOSS = 0.35  # mean loss, 0 to 1, above which no path fits
_ITERATIONS = 4  # of reweighting
_RIDGE = 1e-6

_MIN_GROWTH = 0.45  # change of size over the clip, in units of the mean size; growing has 1.09
_SIZE_TOLERANCE = 0.15  # distance from a linear change, in units of the mean size: a frame there counts half
_MAX_SIZE_LOSS = 0.2  # mean loss above which the size does not change linearly: real clips have under 0.04

_MIN_TURNS = 0.25
_MIN_GAIN = 0.3  # of agreement, by rotating frames back: real spins gain over 0.8
_MIN_AGREEMENT = 0.5  # of frames rotated back: real clips have over 0.85, shuffled ones of a spin 0.2
_MIN_ASYMMETRY = 0.004
_MAX_SPIN_STRAY = 0.18  # of a spinning shape's centre of mass, which is not the centre of rotation of digits
_MAX_STEP = 0.49  # of a symmetric shape's period, from frame to frame
_LEEWAY = 1.1  # on the range of a speed word


class Motion(NamedTuple):
    """name: as in `constants.MOTIONS`, or None. amplitude: of a travel, circling or spin, as in `Object`."""

    name: str | None
    amplitude: float = 0.0


def match_motion(track: ObjectTrack, spectrum: RotationSpectrum, shape: str | None) -> Motion:
    """Name the motion of an object; its shape bounds the rotations that can be recognised."""
    path, growth, turns = match_path(track), size_change(track), spin(spectrum, shape, len(track.x))
    if growth is None or turns is None:
        return Motion(None)
    grows = abs(growth) > _MIN_GROWTH
    moves = path.name != "standing still" and not (turns and _stray(track) < _MAX_SPIN_STRAY)
    if moves + grows + (turns != 0) > 1:
        return Motion(None)
    if grows:
        return Motion("growing" if growth > 0 else "shrinking")
    if turns:
        return Motion("spinning clockwise" if turns > 0 else "spinning counterclockwise", abs(turns))
    return path


def speed_fits(motion: Motion, speed_word: str) -> bool:
    """Whether an amplitude lies in the range of a speed word ("" for none), with a tenth of leeway."""
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
    return low * factor / _LEEWAY <= motion.amplitude <= high * factor * _LEEWAY


def size_change(track: ObjectTrack) -> float | None:
    """Change of size from first to last frame, in units of the mean size; None if it is not linear."""
    t = np.linspace(-0.5, 0.5, len(track.size))
    weight = track.trust.astype(np.float64)
    if (weight > 0).sum() < 3:
        return 0.0
    scale = max(float(np.median(track.size[track.present])), 1e-6)
    size = track.size / scale
    for _ in range(_ITERATIONS):
        slope, middle = np.polyfit(t, size, 1, w=np.sqrt(weight))
        squared = ((size - middle - slope * t) / _SIZE_TOLERANCE) ** 2
        weight = track.trust / (1 + squared) ** 2
    loss = float((track.trust * squared / (1 + squared)).sum() / track.trust.sum())
    return None if loss > _MAX_SIZE_LOSS else float(slope / max(middle, 0.1))


def spin(spectrum: RotationSpectrum, shape: str | None, frames: int) -> float | None:
    """Turns over the clip, clockwise positive; 0 without rotation, None if it is irregular."""
    if shape in constants.ROTATION_INVARIANT or spectrum.asymmetry < _MIN_ASYMMETRY or frames < 3:
        return 0.0
    max_turns = MAX_TURNS
    if shape in constants.SYMMETRY:
        max_turns = min(max_turns, _MAX_STEP * (frames - 1) / constants.SYMMETRY[shape])
    turns = spectrum.best(max_turns)
    if spectrum.at(turns) < _MIN_AGREEMENT:
        return None
    gain = spectrum.at(turns) - spectrum.at(0.0)
    return turns if abs(turns) >= _MIN_TURNS and gain >= _MIN_GAIN else 0.0


def match_path(track: ObjectTrack) -> Motion:
    """Name the path of a track: a motion of the centre, "standing still", or None if none fits."""
    kinds, speeds, curves = _candidates(len(track.x))
    trust = track.trust.astype(np.float64)
    if (trust > 0).sum() < 3:
        return Motion(None)
    points = np.concatenate([track.x, track.y]).astype(np.float64)
    coefficients, loss = _fit(curves, points, trust)
    order = (int(n) for n in np.argsort(loss, kind="stable"))
    best = next(n for n in order if _extent(kinds[n], coefficients[n]) >= 0)
    if loss[best] > _MAX_PATH_LOSS:
        return Motion(None)
    if kinds[best] == "circling":
        direction = "clockwise" if speeds[best] > 0 else "counterclockwise"
        return Motion(f"circling {direction}", abs(float(speeds[best])))
    name = _direction(*coefficients[best, 2:4]) if kinds[best] == "travelling" else kinds[best]
    return Motion(name, _extent(kinds[best], coefficients[best]))


@lru_cache(maxsize=8)
def _candidates(frames: int) -> tuple[tuple[str, ...], Floats, Floats]:
    """Kinds and speeds of all candidate paths, and their curves (N, 2F, 4), unused columns zero."""
    t = np.arange(frames) / max(frames - 1, 1)
    zero, one = np.zeros(frames), np.ones(frames)
    still = [(one, zero), (zero, one)]
    paths: list[tuple[str, float, list[tuple[Floats, Floats]]]] = [
        ("standing still", 0.0, still),
        ("travelling", 0.0, [*still, (t, zero), (zero, t)]),
    ]
    for turns in (*_CIRCLING_TURNS, *-_CIRCLING_TURNS):
        cos, sin = np.cos(2 * np.pi * turns * t), np.sin(2 * np.pi * turns * t)
        paths.append(("circling", turns, [*still, (cos, sin), (-sin, cos)]))
    for periods in _SWING_PERIODS:
        angle = 2 * np.pi * periods * t
        curves = [*still, (np.cos(angle), zero), (np.sin(angle), zero)]
        paths.append(("swinging from side to side", periods, curves))
    for bounces in _BOUNCES:
        for phase in _BOUNCE_PHASES:
            cycle = (bounces * t + phase) % 1.0
            paths.append(("bouncing", bounces, [*still, (zero, -4 * cycle * (1 - cycle))]))
    columns = np.zeros((len(paths), 2 * frames, 4))
    for n, (_, _, curves) in enumerate(paths):
        for k, (along_x, along_y) in enumerate(curves):
            columns[n, :, k] = np.concatenate([along_x, along_y])
    return tuple(kind for kind, _, _ in paths), np.array([speed for _, speed, _ in paths]), columns


def _fit(curves: Floats, points: Floats, trust: Floats) -> tuple[Floats, Floats]:
    """Fit all candidates (N, 2F, 4): coefficients (N, 4) and mean loss (N,), 0 to 1."""
    frames = len(trust)
    weight = np.broadcast_to(trust, (len(curves), frames))
    for _ in range(_ITERATIONS):
        weighted = (curves * np.tile(weight, 2)[:, :, None]).transpose(0, 2, 1)  # (N, 4, 2F)
        normal = weighted @ curves + _RIDGE * np.eye(curves.shape[-1])
        coefficients = np.linalg.solve(normal, weighted @ points[:, None])  # (N, 4, 1)
        error = points - (curves @ coefficients)[..., 0]
        squared = (error[:, :frames] ** 2 + error[:, frames:] ** 2) / _PATH_TOLERANCE**2
        weight = trust / (1 + squared) ** 2
    loss: Floats = (trust * squared / (1 + squared)).sum(axis=1) / trust.sum()
    fitted: Floats = coefficients[..., 0].astype(np.float64)
    return fitted, loss


def _extent(kind: str, coefficients: Floats) -> float:
    """Length, radius, height or half width of a fitted path; -1 if it is too small for its kind."""
    third, fourth = coefficients[2], coefficients[3]
    length = float(np.hypot(third, fourth))
    if kind == "standing still":
        return 0.0
    if kind == "travelling":
        return float(max(abs(third), abs(fourth))) if length >= _MIN_TRAVEL else -1.0
    if kind == "bouncing":
        return float(third) if third >= _MIN_HEIGHT else -1.0
    least = _MIN_RADIUS if kind == "circling" else _MIN_SWING
    return length if length >= least else -1.0


def _direction(x: float, y: float) -> str:
    """Name of the direction nearest to a travel by (x, y)."""
    cosines = {
        name: (x * sign[0] + y * sign[1]) / float(np.hypot(*sign))
        for name, sign in constants.DIRECTIONS.items()
    }
    return max(cosines, key=lambda name: cosines[name])


def _stray(track: ObjectTrack) -> float:
    """Median distance from the median position."""
    x, y = track.x[track.present], track.y[track.present]
    return float(np.median(np.hypot(x - np.median(x), y - np.median(y)))) if len(x) else 0.0
