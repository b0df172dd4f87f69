"""Which path an object's centre takes: standing, straight travel, bounces, a circle or a swing.

Every path of the world is a sum of known curves once its speed and phase are fixed, so all of them, over a
grid of speeds and phases, are fitted by least squares at once, frames that fit badly losing weight from round
to round. The path that leaves the least is the answer, if it leaves little enough.

Shapes: F frames, N candidate paths, at most 4 coefficients each; points are (2F,): all x, then all y.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from latent_shift.moving_shapes import constants
from latent_shift.moving_shapes.scorer.tracks import ObjectTrack

Floats = NDArray[np.float64]

_CIRCLING_TURNS = np.arange(0.4, 1.75, 0.1)
_SWING_PERIODS = np.arange(1.3, 1.75, 0.1)
_BOUNCES = np.arange(2.8, 4.3, 0.2)
_BOUNCE_PHASES = np.arange(0, 1, 1 / 24)
_LEAST_TRAVEL, _LEAST_RADIUS, _LEAST_SWING, _LEAST_HEIGHT = 0.22, 0.18, 0.2, 0.3
_TOLERANCE = 0.08  # distance from the path at which a frame counts half
_WORST = 0.35  # mean loss, 0 to 1, above which no path fits
_ROUNDS = 4
_RIDGE = 1e-6


@dataclass(frozen=True)
class Path:
    """kind: a motion of `world.py` that moves the centre, "standing still", or None where nothing fits.

    extent: length of a travel on each axis it moves along, radius of a circling, height of a bounce, half
    width of a swing. turns: of a circling.
    """

    kind: str | None
    extent: float = 0.0
    turns: float = 0.0


def find_path(track: ObjectTrack) -> Path:
    """The path of a track; frames count by their trust."""
    kinds, speeds, curves = _candidates(len(track.x))
    trust = track.trust.astype(np.float64)
    if (trust > 0).sum() < 3:
        return Path(None)
    points = np.concatenate([track.x, track.y]).astype(np.float64)
    coefficients, loss = _fit(curves, points, trust)
    best = next(int(n) for n in np.argsort(loss, kind="stable") if _extent(kinds[n], coefficients[n]) >= 0)
    if loss[best] > _WORST:
        return Path(None)
    kind = kinds[best]
    if kind == "travel":
        kind = _direction(*coefficients[best, 2:4])
    elif kind == "circle":
        kind = "circling clockwise" if speeds[best] > 0 else "circling counterclockwise"
    return Path(kind, _extent(kinds[best], coefficients[best]), abs(float(speeds[best])))


@lru_cache(maxsize=8)
def _candidates(frames: int) -> tuple[tuple[str, ...], Floats, Floats]:
    """Kind and speed of each candidate path, and its curves (N, 2F, 4), unused columns zero."""
    t = np.arange(frames) / max(frames - 1, 1)
    zero, one = np.zeros(frames), np.ones(frames)
    stand = [(one, zero), (zero, one)]
    found: list[tuple[str, float, list[tuple[Floats, Floats]]]] = [
        ("standing still", 0.0, stand),
        ("travel", 0.0, [*stand, (t, zero), (zero, t)]),
    ]
    for turns in (*_CIRCLING_TURNS, *-_CIRCLING_TURNS):
        cos, sin = np.cos(2 * np.pi * turns * t), np.sin(2 * np.pi * turns * t)
        found.append(("circle", turns, [*stand, (cos, sin), (-sin, cos)]))
    for periods in _SWING_PERIODS:
        angle = 2 * np.pi * periods * t
        curves = [*stand, (np.cos(angle), zero), (np.sin(angle), zero)]
        found.append(("swinging from side to side", periods, curves))
    for bounces in _BOUNCES:
        for phase in _BOUNCE_PHASES:
            within = (bounces * t + phase) % 1.0
            found.append(("bouncing", bounces, [*stand, (zero, -4 * within * (1 - within))]))
    columns = np.zeros((len(found), 2 * frames, 4))
    for n, (_, _, curves) in enumerate(found):
        for k, (along_x, along_y) in enumerate(curves):
            columns[n, :, k] = np.concatenate([along_x, along_y])
    return tuple(kind for kind, _, _ in found), np.array([speed for _, speed, _ in found]), columns


def _fit(curves: Floats, points: Floats, trust: Floats) -> tuple[Floats, Floats]:
    """Coefficients (N, 4) and mean loss (N,), 0 to 1, of each candidate (N, 2F, 4)."""
    frames = len(trust)
    weight = np.broadcast_to(trust, (len(curves), frames))
    for _ in range(_ROUNDS):
        heavy = (curves * np.tile(weight, 2)[:, :, None]).transpose(0, 2, 1)  # (N, 4, 2F)
        normal = heavy @ curves + _RIDGE * np.eye(curves.shape[-1])
        coefficients = np.linalg.solve(normal, heavy @ points[:, None])  # (N, 4, 1)
        error = points - (curves @ coefficients)[..., 0]
        squared = (error[:, :frames] ** 2 + error[:, frames:] ** 2) / _TOLERANCE**2
        weight = trust / (1 + squared) ** 2
    loss: Floats = (trust * squared / (1 + squared)).sum(axis=1) / trust.sum()
    found: Floats = coefficients[..., 0].astype(np.float64)
    return found, loss


def _extent(kind: str, coefficients: Floats) -> float:
    """How far a fitted path goes, or -1 where that is too little for its kind."""
    third, fourth = coefficients[2], coefficients[3]
    length = float(np.hypot(third, fourth))
    if kind == "standing still":
        return 0.0
    if kind == "travel":
        return float(max(abs(third), abs(fourth))) if length >= _LEAST_TRAVEL else -1.0
    if kind == "bouncing":
        return float(third) if third >= _LEAST_HEIGHT else -1.0
    least = _LEAST_RADIUS if kind == "circle" else _LEAST_SWING
    return length if length >= least else -1.0


def _direction(x: float, y: float) -> str:
    """The name of the direction nearest to a travel by (x, y)."""
    towards = {
        name: (x * way[0] + y * way[1]) / float(np.hypot(*way)) for name, way in constants.DIRECTIONS.items()
    }
    return max(towards, key=lambda name: towards[name])
