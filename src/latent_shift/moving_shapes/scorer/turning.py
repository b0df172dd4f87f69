"""How fast an object turns about its own centre, read from all frames of a clip together.

Around the centre, on circles of several radii, a turn multiplies each harmonic of the picture by a phase. A
steady turning is therefore a line in the spectrum of those harmonics over time: the speed at which all
frames, turned back, agree best. No shape needs to be known, and one spoilt frame weighs no more than its
share.

Shapes: F frames, S speeds, R radii, A angles, M harmonics.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latent_shift.moving_shapes.scorer.patches import sample
from latent_shift.moving_shapes.scorer.tracks import ObjectTrack

Floats = NDArray[np.float32]

MOST_TURNS = 1.95  # in a clip, either way
_STEP = 0.025
_ANGLES = 48
_RADII = np.linspace(0.35, 2.1, 8, dtype=np.float32)  # in units of the object's spread
_HARMONICS = 11
SPEEDS = np.arange(-MOST_TURNS, MOST_TURNS + _STEP / 2, _STEP)


class Turning(NamedTuple):
    """agreement: (S,) of all frames turned back at each of SPEEDS; relief: how far from round; 0 to 1."""

    agreement: Floats
    relief: float

    def best(self, most: float = MOST_TURNS) -> float:
        """The turns a clip, clockwise positive, at which frames agree best, among those up to `most`."""
        allowed = np.abs(SPEEDS) <= most
        return float(SPEEDS[np.argmax(np.where(allowed, self.agreement, -1.0))])

    def at(self, turns: float) -> float:
        """The agreement at the speed nearest to `turns`."""
        return float(self.agreement[np.argmin(np.abs(SPEEDS - turns))])


def measure_turning(cover: Floats, track: ObjectTrack) -> Turning:
    """Compare an object's coverage (F, H, W) with itself, turned, over all frames."""
    angle = np.arange(_ANGLES) * (2 * np.pi / _ANGLES)
    u = (_RADII[:, None] * np.cos(angle)).ravel().astype(np.float32)
    v = (_RADII[:, None] * np.sin(angle)).ravel().astype(np.float32)
    x = track.x[:, None] + track.spread[:, None] * u
    y = track.y[:, None] + track.spread[:, None] * v
    circles = sample(cover, x, y).reshape(len(cover), len(_RADII), _ANGLES)
    waves = np.fft.rfft(circles, axis=-1)[..., : _HARMONICS + 1] * np.sqrt(_RADII)[None, :, None]
    waves = waves * track.trust[:, None, None]
    round_part = float((np.abs(waves[..., 0]) ** 2).sum())
    waves = waves[..., 1:]  # (F, R, M)
    power = (np.abs(waves) ** 2).sum(axis=(1, 2))  # (F,)
    time = np.arange(len(cover)) / max(len(cover) - 1, 1)
    harmonic = np.arange(1, _HARMONICS + 1)
    back = np.exp(2j * np.pi * SPEEDS[:, None, None] * time[:, None] * harmonic)  # (S, F, M)
    together = np.einsum("sfm,frm->srm", back, waves)
    # By Cauchy and Schwarz at most the square of the summed lengths: 1 where all frames are equal.
    whole = max(float(np.sqrt(power).sum()) ** 2, 1e-9)
    agreement = (np.abs(together) ** 2).sum(axis=(1, 2)) / whole
    relief = float(power.sum()) / max(round_part + float(power.sum()), 1e-9)
    return Turning(agreement.astype(np.float32), relief)
