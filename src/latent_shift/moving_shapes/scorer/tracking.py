"""Tracking of one object through a clip: position, size, rotation, and patches with the object centred.

The second step of the scorer: from coverage to numbers, without knowing the expected contents. Coordinates
are the world's: -1 (left, top) to +1 (right, bottom).

Shape legend: F frames, H, W pixels (square frames), P side of a patch, S speeds, R radii, A angles,
M harmonics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

_MIN_MASS = 4.0  # pixels; with less there is no object
_MIN_PEAK = 0.4
_CUT_TRUST, _TOUCHED_TRUST = 0.15, 0.5  # where the border cuts the object, or the other object touches it
_SOLID = 0.3

PATCH = 24
_HALF_WIDTH = 2.4  # of a patch, in units of the object's spread

MAX_TURNS = 1.95  # in a clip, in either direction
_SPEED_STEP = 0.025
_ANGLES = 48
_RADII = np.linspace(0.35, 2.1, 8, dtype=np.float32)  # in units of the object's spread
_HARMONICS = 11
SPEEDS = np.arange(-MAX_TURNS, MAX_TURNS + _SPEED_STEP / 2, _SPEED_STEP)  # turns a clip


@dataclass(frozen=True)
class ObjectTrack:
    """One object over a clip; every array is (F,). Other values are meaningless where `present` is false.

    x, y: centre of mass. size: square root of the covered area. spread: root mean square distance of its
    pixels from the centre. trust: weight of a frame, 0 to 1.
    """

    present: Mask
    x: Floats
    y: Floats
    size: Floats
    spread: Floats
    trust: Floats


def track_object(cover: Floats, hidden: Mask) -> ObjectTrack:
    """Track an object by its coverage (F, H, W); hidden: pixels (F, H, W) behind the other object."""
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
    present = (mass >= _MIN_MASS) & (cover.max(axis=(1, 2)) >= _MIN_PEAK)
    trust = np.where(cut, _CUT_TRUST, 1.0) * np.where(touched, _TOUCHED_TRUST, 1.0) * present
    spread = np.sqrt(np.maximum(variance, (1.0 / side) ** 2))
    size = np.sqrt(mass) * 2 / side
    return ObjectTrack(present, x, y, size, spread, trust.astype(np.float32))


def crop_patches(cover: Floats, hidden: Mask, track: ObjectTrack, rotation: Floats) -> Floats:
    """Crop the object of each frame: patches (F, 2, P, P) of its coverage, and of invisible pixels.

    The object's centre is in the middle and its spread has a fixed length, so position and size cancel out.
    Invisible pixels are those behind the other object and beyond the border. cover: (F, H, W), by the object.
    hidden: pixels (F, H, W) behind the other object. track: of the object. rotation: (F, 2, 2) matrices from
    patch axes to frame axes, of `rotation_matrices`.
    """
    steps = (np.arange(PATCH, dtype=np.float32) + 0.5) * (2 * _HALF_WIDTH / PATCH) - _HALF_WIDTH
    v, u = (axis.ravel() for axis in np.meshgrid(steps, steps, indexing="ij"))
    offsets = (rotation @ np.stack([u, v])) * track.spread[:, None, None]  # (F, 2, P*P)
    x, y = track.x[:, None] + offsets[:, 0], track.y[:, None] + offsets[:, 1]
    visible = _interpolate(cover, x, y)
    invisible = _interpolate(hidden.astype(np.float32), x, y, outside=1.0)
    return np.stack([visible, invisible], axis=1).reshape(-1, 2, PATCH, PATCH).astype(np.float32)


def rotation_matrices(turns: Floats) -> Floats:
    """Matrices (F, 2, 2) for `crop_patches` that show an object rotated clockwise by `turns` (F,) upright."""
    angle = 2 * np.pi * turns
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2).astype(np.float32)


class RotationSpectrum(NamedTuple):
    """Agreement of all frames when rotated back at each speed.

    agreement: (S,), 0 to 1, at SPEEDS. asymmetry: share, 0 to 1, of the shape that is not circular.
    """

    agreement: Floats
    asymmetry: float

    def best(self, max_turns: float = MAX_TURNS) -> float:
        """Turns a clip, clockwise positive, of the best agreement, at most `max_turns` either way."""
        allowed = np.abs(SPEEDS) <= max_turns
        return float(SPEEDS[np.argmax(np.where(allowed, self.agreement, -1.0))])

    def at(self, turns: float) -> float:
        """Agreement at the speed nearest to `turns`."""
        return float(self.agreement[np.argmin(np.abs(SPEEDS - turns))])


def rotation_spectrum(cover: Floats, track: ObjectTrack) -> RotationSpectrum:
    """Compare an object's coverage (F, H, W) over all frames, rotated back at each of SPEEDS.

    On circles around the centre, a rotation multiplies each angular harmonic by a phase, so a steady rotation
    is a line in the spectrum of the harmonics over time. The shape need not be known, and one bad frame has
    no more than its share.
    """
    angle = np.arange(_ANGLES) * (2 * np.pi / _ANGLES)
    u = (_RADII[:, None] * np.cos(angle)).ravel().astype(np.float32)
    v = (_RADII[:, None] * np.sin(angle)).ravel().astype(np.float32)
    x = track.x[:, None] + track.spread[:, None] * u
    y = track.y[:, None] + track.spread[:, None] * v
    circles = _interpolate(cover, x, y).reshape(len(cover), len(_RADII), _ANGLES)
    harmonics = np.fft.rfft(circles, axis=-1)[..., : _HARMONICS + 1] * np.sqrt(_RADII)[None, :, None]
    harmonics = harmonics * track.trust[:, None, None]
    symmetric = float((np.abs(harmonics[..., 0]) ** 2).sum())
    harmonics = harmonics[..., 1:]  # (F, R, M)
    power = (np.abs(harmonics) ** 2).sum(axis=(1, 2))  # (F,)
    time = np.arange(len(cover)) / max(len(cover) - 1, 1)
    order = np.arange(1, _HARMONICS + 1)
    back = np.exp(2j * np.pi * SPEEDS[:, None, None] * time[:, None] * order)  # (S, F, M)
    together = np.einsum("sfm,frm->srm", back, harmonics)
    # By Cauchy and Schwarz at most the square of the summed lengths: 1 where all frames are equal.
    whole = max(float(np.sqrt(power).sum()) ** 2, 1e-9)
    agreement = (np.abs(together) ** 2).sum(axis=(1, 2)) / whole
    asymmetry = float(power.sum()) / max(symmetric + float(power.sum()), 1e-9)
    return RotationSpectrum(agreement.astype(np.float32), asymmetry)


def _interpolate(frames: Floats, x: Floats, y: Floats, outside: float = 0.0) -> Floats:
    """Bilinear samples (F, N) of frames (F, H, W) at coordinates x, y (F, N), -1 to 1."""
    count, height, width = frames.shape
    padded = np.pad(frames, ((0, 0), (1, 1), (1, 1)), constant_values=outside)
    column = np.clip((x + 1) * (width / 2) + 0.5, 0, width + 0.999)  # in padded pixels
    row = np.clip((y + 1) * (height / 2) + 0.5, 0, height + 0.999)
    left, top = column.astype(np.int64), row.astype(np.int64)
    across, down = (column - left).astype(np.float32), (row - top).astype(np.float32)
    flat = padded.reshape(-1)
    corner = (np.arange(count)[:, None] * (height + 2) + top) * (width + 2) + left
    upper = flat[corner] * (1 - across) + flat[corner + 1] * across
    lower = flat[corner + width + 2] * (1 - across) + flat[corner + width + 3] * across
    return upper * (1 - down) + lower * down
