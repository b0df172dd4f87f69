"""Outlines of the 17 shapes as signed distances: seven drawn ones and the ten handwritten digits.

Coordinates u (to the right) and v (down) are in units of the shape's radius, the shape upright and centred on
its centre of area. A signed distance is in the same unit, negative inside; near corners it is the distance to
the nearer edge's line, which is accurate enough for anti-aliasing. Only operations with correctly rounded
IEEE results are used, so values are identical on all machines.

Digits come from scikit-learn's 8 x 8 images (`load_digits`), here called glyphs. Each is interpolated by
quadratic splines to a field of ink; the outline is a level line of the field.

Shapes: N glyphs, P x P pixels of a patch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from latent_shift.moving_shapes.constants import TRAIN_GLYPHS, is_digit

Floats = NDArray[np.float32]

_F = np.float32
_SQUARE_HALF = _F(0.88)
_TRIANGLE_INNER = _F(0.625)
_SQRT3_HALF = _F(0.8660254)
_RING_MIDDLE, _RING_HALF_WIDTH = _F(0.79), _F(0.26)
_CROSS_ARM, _CROSS_HALF_WIDTH = _F(1.08), _F(0.36)
_HEART_SCALE, _HEART_TIP = _F(1.75), _F(0.656)
_STAR_OUTER, _STAR_INNER = 1.25, 0.53
_COS36, _SIN36 = 0.8090169943749475, 0.5877852522924731

_GLYPH = 8  # pixels of a glyph's side
_FINE = 4  # field samples per glyph pixel
_PAD = 2  # empty glyph pixels around the glyph
_SIDE = (_GLYPH + 2 * _PAD) * _FINE + 1
_HALF_HEIGHT = _F(0.98)  # of the glyph, in units of the shape's radius
_EDGE = _F(0.5)
_SHARPNESS = _F(0.5)
_INK_TO_DISTANCE = _F(0.5)  # radius units per unit of ink: the inverse of a stroke's usual slope


def circle(u: Floats, v: Floats) -> Floats:
    """A disc of radius 1."""
    return np.sqrt(u * u + v * v) - _F(1)


def square(u: Floats, v: Floats) -> Floats:
    """A square of about the disc's area."""
    return np.maximum(np.abs(u), np.abs(v)) - _SQUARE_HALF


def triangle(u: Floats, v: Floats) -> Floats:
    """An equilateral triangle, one corner up."""
    return np.maximum(v, np.abs(u) * _SQRT3_HALF - v * _F(0.5)) - _TRIANGLE_INNER


def _star_edge() -> tuple[np.float32, np.float32, np.float32]:
    """Outward normal (x, y) and offset of the edge from the top point to the inner corner on its right."""
    x, y = _STAR_OUTER - _STAR_INNER * _COS36, _STAR_INNER * _SIN36
    length = (x * x + y * y) ** 0.5
    return _F(x / length), _F(y / length), _F(y / length * _STAR_OUTER)


_STAR_X, _STAR_Y, _STAR_OFFSET = _star_edge()


def star(u: Floats, v: Floats) -> Floats:
    """A five-pointed star, one point up: folded by its mirror lines onto a single edge."""
    x, y = np.abs(u), -v
    for side in (_F(_COS36), _F(-_COS36)):
        beyond = np.maximum(side * x - _F(_SIN36) * y, _F(0)) * _F(2)
        x, y = x - beyond * side, y + beyond * _F(_SIN36)
    return np.abs(x) * _STAR_X + y * _STAR_Y - _STAR_OFFSET


def ring(u: Floats, v: Floats) -> Floats:
    """A ring with a hole of half its width."""
    return np.abs(np.sqrt(u * u + v * v) - _RING_MIDDLE) - _RING_HALF_WIDTH


def cross(u: Floats, v: Floats) -> Floats:
    """An upright plus sign."""
    x, y = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(x, y) - _CROSS_ARM, np.minimum(x, y) - _CROSS_HALF_WIDTH)


def heart(u: Floats, v: Floats) -> Floats:
    """A heart, point down: a square on its corner with a disc on each upper side."""
    x, y = np.abs(u) / _HEART_SCALE, _HEART_TIP - v / _HEART_SCALE
    body = (x + np.abs(y - _F(0.5)) - _F(0.5)) * _F(0.70710678)
    lobe_x, lobe_y = x - _F(0.25), y - _F(0.75)
    lobe = np.sqrt(lobe_x * lobe_x + lobe_y * lobe_y) - _F(0.35355339)
    return np.minimum(body, lobe) * _HEART_SCALE


_OUTLINES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "ring": ring,
    "cross": cross,
    "heart": heart,
}

# Distance of the farthest point from the centre, and area, at radius 1.
_REACH = {
    "circle": 1.0,
    "square": 1.245,
    "triangle": 1.25,
    "star": 1.25,
    "ring": 1.05,
    "cross": 1.14,
    "heart": 1.15,
    "digit": 1.35,
}
_AREA = {
    "circle": 3.14,
    "square": 3.09,
    "triangle": 2.03,
    "star": 1.94,
    "ring": 2.58,
    "cross": 2.59,
    "heart": 2.73,
    "digit": 0.77,
}


def outline_name(shape: str) -> str:
    """Return "digit" for all ten digits, which are drawn alike; otherwise the shape."""
    return "digit" if is_digit(shape) else shape


def reach(shape: str) -> float:
    """Distance of a shape's farthest point from its centre, in units of its radius (a bound for digits)."""
    return _REACH[outline_name(shape)]


def area(shape: str) -> float:
    """Area of a shape of radius 1 (a lower bound for digits)."""
    return _AREA[outline_name(shape)]


def signed_distance(outline: str, u: Floats, v: Floats, glyphs: NDArray[np.int64]) -> Floats:
    """Signed distance (N, P, P) to an outline at coordinates u, v (N, P, P); glyphs: (N,), of digits only."""
    return _digit(u, v, glyphs) if outline == "digit" else _OUTLINES[outline](u, v)


@lru_cache(maxsize=1)
def glyph_indices() -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Glyph indices of each digit: for training (the first 80 %, in the data set's order), for testing."""
    target = load_digits().target
    split = []
    for digit in range(10):
        glyphs = [int(i) for i in np.flatnonzero(target == digit)]
        cut = int(len(glyphs) * TRAIN_GLYPHS)
        split.append((tuple(glyphs[:cut]), tuple(glyphs[cut:])))
    return tuple(split)


def _digit(u: Floats, v: Floats, glyphs: NDArray[np.int64]) -> Floats:
    """Distance to the stroke's edge by bilinear interpolation of the ink; coarse away from the edge."""
    ink = _ink().reshape(-1)
    scale = _F(_GLYPH * _FINE / 2) / _HALF_HEIGHT
    middle, last = _F((_SIDE - 1) / 2), _F(_SIDE - 1) - _F(0.5)
    x = np.clip(u * scale + middle, _F(0), last)
    y = np.clip(v * scale + middle, _F(0), last)
    column, row = x.astype(np.int32), y.astype(np.int32)
    x -= column.astype(np.float32)
    y -= row.astype(np.float32)
    corner = (glyphs * (_SIDE * _SIDE)).astype(np.int32)[:, None, None] + row * np.int32(_SIDE) + column
    upper, lower = ink.take(corner), ink.take(corner + np.int32(_SIDE))
    upper += (ink.take(corner + np.int32(1)) - upper) * x
    lower += (ink.take(corner + np.int32(_SIDE + 1)) - lower) * x
    return (_EDGE - (upper + (lower - upper) * y)) * _INK_TO_DISTANCE


@lru_cache(maxsize=1)
def _ink() -> Floats:
    """Ink of every glyph, about 0 to 1: (1797, _SIDE, _SIDE); sample k lies k / _FINE glyph pixels in."""
    glyphs = load_digits().images.astype(np.float32) / _F(16)
    padded = np.pad(glyphs, ((0, 0), (_PAD + 1, _PAD + 1), (_PAD + 1, _PAD + 1)))
    fine = _upsample(_upsample(padded).transpose(0, 2, 1)).transpose(0, 2, 1)
    return np.ascontiguousarray(np.pad(fine, ((0, 0), (0, 1), (0, 1))))


def _upsample(glyphs: Floats) -> Floats:
    """Quadratic spline along the last axis, _FINE samples a pixel: (N, K, n) to (N, K, (n - 2) * _FINE).

    The spline would blur small holes shut, so its weights come from sharpened pixels.
    """
    blurred = glyphs.copy()
    blurred[..., 1:-1] = (glyphs[..., :-2] + glyphs[..., 2:]) * _F(0.5)
    sharp = glyphs + (glyphs - blurred) * _SHARPNESS
    count = glyphs.shape[-1] - 2
    fine = np.zeros((*glyphs.shape[:-1], count, _FINE), dtype=np.float32)
    for step in range(_FINE):
        s = _F(step / _FINE - 0.5)  # from the middle of the pixel, in pixels
        before = _F(0.5) * (_F(0.5) - s) ** 2
        after = _F(0.5) * (_F(0.5) + s) ** 2
        here = _F(0.75) - s * s
        fine[..., step] = sharp[..., :-2] * before + sharp[..., 1:-1] * here + sharp[..., 2:] * after
    return fine.reshape(*glyphs.shape[:-1], count * _FINE)
