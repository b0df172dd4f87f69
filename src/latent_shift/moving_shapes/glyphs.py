"""The ten digits as people wrote them: scikit-learn's 8 x 8 scans, made smooth enough to be drawn large.

Not an outline but a field of ink for each scan, interpolated by quadratic splines; its level line is the
edge of the stroke. All of it is exact arithmetic on multiples of powers of two. The scans come with
scikit-learn, so nothing is downloaded; they are read once, on first use.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from latent_shift.moving_shapes.constants import TRAIN_SCANS

Floats = NDArray[np.float32]

REACH = 1.35
AREA = 0.77

_SCAN = 8
_FINE = 4  # field samples per scan pixel
_PAD = 2  # empty scan pixels around the scan
_SIDE = (_SCAN + 2 * _PAD) * _FINE + 1
_HALF_HEIGHT = np.float32(0.98)  # of the scan, in units of the shape's radius
_EDGE = np.float32(0.5)
_SHARPNESS = np.float32(0.5)
_STEEPNESS = np.float32(0.5)  # radius units per unit of ink: the inverse of a stroke's usual slope


@lru_cache(maxsize=1)
def scan_indices() -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """For each digit the scans to train on (the first 80 %, in the data set's order) and those to test on."""
    target = load_digits().target
    split = []
    for digit in range(10):
        scans = [int(i) for i in np.flatnonzero(target == digit)]
        cut = int(len(scans) * TRAIN_SCANS)
        split.append((tuple(scans[:cut]), tuple(scans[cut:])))
    return tuple(split)


def _refine(scans: Floats) -> Floats:
    """Spline along the last axis, _FINE samples a pixel: (N, K, n) to (N, K, (n - 2) * _FINE).

    A quadratic spline alone would blur holes shut, so its weights come from sharpened pixels.
    """
    blurred = scans.copy()
    blurred[..., 1:-1] = (scans[..., :-2] + scans[..., 2:]) * np.float32(0.5)
    sharp = scans + (scans - blurred) * _SHARPNESS
    count = scans.shape[-1] - 2
    fine = np.zeros((*scans.shape[:-1], count, _FINE), dtype=np.float32)
    for step in range(_FINE):
        s = np.float32(step / _FINE - 0.5)  # from the middle of the pixel, in pixels
        before = np.float32(0.5) * (np.float32(0.5) - s) ** 2
        after = np.float32(0.5) * (np.float32(0.5) + s) ** 2
        here = np.float32(0.75) - s * s
        fine[..., step] = sharp[..., :-2] * before + sharp[..., 1:-1] * here + sharp[..., 2:] * after
    return fine.reshape(*scans.shape[:-1], count * _FINE)


@lru_cache(maxsize=1)
def _ink() -> Floats:
    """Ink of every scan, about 0 to 1: (1797, _SIDE, _SIDE); sample k is k / _FINE pixels in."""
    scans = load_digits().images.astype(np.float32) / np.float32(16)
    padded = np.pad(scans, ((0, 0), (_PAD + 1, _PAD + 1), (_PAD + 1, _PAD + 1)))
    fine = _refine(_refine(padded).transpose(0, 2, 1)).transpose(0, 2, 1)
    return np.ascontiguousarray(np.pad(fine, ((0, 0), (0, 1), (0, 1))))


def outline(u: Floats, v: Floats, scans: NDArray[np.int64]) -> Floats:
    """Distance to the stroke's edge in units of the radius, negative inside; coarse away from the edge.

    u, v: (N, P, P) coordinates to the right and down in units of the radius; scans: (N,) indices.
    """
    ink = _ink().reshape(-1)
    scale = np.float32(_SCAN * _FINE / 2) / _HALF_HEIGHT
    middle, last = np.float32((_SIDE - 1) / 2), np.float32(_SIDE - 1) - np.float32(0.5)
    x = np.clip(u * scale + middle, np.float32(0), last)
    y = np.clip(v * scale + middle, np.float32(0), last)
    column, row = x.astype(np.int32), y.astype(np.int32)
    x -= column.astype(np.float32)
    y -= row.astype(np.float32)
    corner = (scans * (_SIDE * _SIDE)).astype(np.int32)[:, None, None] + row * np.int32(_SIDE) + column
    upper, lower = ink.take(corner), ink.take(corner + np.int32(_SIDE))
    upper += (ink.take(corner + np.int32(1)) - upper) * x
    lower += (ink.take(corner + np.int32(_SIDE + 1)) - lower) * x
    return (_EDGE - (upper + (lower - upper) * y)) * _STEEPNESS
