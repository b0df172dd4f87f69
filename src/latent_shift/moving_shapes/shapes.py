"""The outlines of the seven drawn shapes, as signed distances.

Each function takes coordinates u (to the right) and v (down) in units of the shape's radius, upright and
centred on its centre of area, and returns the distance to the outline in the same unit, negative inside
(next to corners the distance to the nearer edge's line, which is all that anti-aliasing needs). Only
operations that IEEE arithmetic fixes to the last bit are used, so every machine gets the same values.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]

_F = np.float32
_SQUARE_HALF = _F(0.88)
_TRIANGLE_INNER = _F(0.625)
_SQRT3_HALF = _F(0.8660254)
_RING_MIDDLE, _RING_HALF_WIDTH = _F(0.79), _F(0.26)
_CROSS_ARM, _CROSS_HALF_WIDTH = _F(1.08), _F(0.36)
_HEART_SCALE, _HEART_TIP = _F(1.75), _F(0.656)
_STAR_OUTER, _STAR_INNER = 1.25, 0.53
_COS36, _SIN36 = 0.8090169943749475, 0.5877852522924731


def circle(u: Plane, v: Plane) -> Plane:
    """A disc of radius 1."""
    return np.sqrt(u * u + v * v) - _F(1)


def square(u: Plane, v: Plane) -> Plane:
    """A square of about the disc's area."""
    return np.maximum(np.abs(u), np.abs(v)) - _SQUARE_HALF


def triangle(u: Plane, v: Plane) -> Plane:
    """An equilateral triangle, one corner up."""
    return np.maximum(v, np.abs(u) * _SQRT3_HALF - v * _F(0.5)) - _TRIANGLE_INNER


def _star_edge() -> tuple[np.float32, np.float32, np.float32]:
    """Outward normal (x, y) and offset of the edge from the top point to the inner corner on its right."""
    x, y = _STAR_OUTER - _STAR_INNER * _COS36, _STAR_INNER * _SIN36
    length = (x * x + y * y) ** 0.5
    return _F(x / length), _F(y / length), _F(y / length * _STAR_OUTER)


_STAR_X, _STAR_Y, _STAR_OFFSET = _star_edge()


def star(u: Plane, v: Plane) -> Plane:
    """A five-pointed star, one point up: folded by its mirror lines onto a single edge."""
    x, y = np.abs(u), -v
    for side in (_F(_COS36), _F(-_COS36)):
        beyond = np.maximum(side * x - _F(_SIN36) * y, _F(0)) * _F(2)
        x, y = x - beyond * side, y + beyond * _F(_SIN36)
    return np.abs(x) * _STAR_X + y * _STAR_Y - _STAR_OFFSET


def ring(u: Plane, v: Plane) -> Plane:
    """A ring whose hole is half as wide as itself."""
    return np.abs(np.sqrt(u * u + v * v) - _RING_MIDDLE) - _RING_HALF_WIDTH


def cross(u: Plane, v: Plane) -> Plane:
    """An upright plus sign."""
    x, y = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(x, y) - _CROSS_ARM, np.minimum(x, y) - _CROSS_HALF_WIDTH)


def heart(u: Plane, v: Plane) -> Plane:
    """A heart, point down: a square on its corner with a disc on each upper side."""
    x, y = np.abs(u) / _HEART_SCALE, _HEART_TIP - v / _HEART_SCALE
    body = (x + np.abs(y - _F(0.5)) - _F(0.5)) * _F(0.70710678)
    lobe_x, lobe_y = x - _F(0.25), y - _F(0.75)
    lobe = np.sqrt(lobe_x * lobe_x + lobe_y * lobe_y) - _F(0.35355339)
    return np.minimum(body, lobe) * _HEART_SCALE


OUTLINES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "ring": ring,
    "cross": cross,
    "heart": heart,
}

# Farthest point from the centre, and area, of each drawn shape of radius 1.
REACH = {
    "circle": 1.0,
    "square": 1.245,
    "triangle": 1.25,
    "star": 1.25,
    "ring": 1.05,
    "cross": 1.14,
    "heart": 1.15,
}
AREA = {
    "circle": 3.14,
    "square": 3.09,
    "triangle": 2.03,
    "star": 1.94,
    "ring": 2.58,
    "cross": 2.59,
    "heart": 2.73,
}
