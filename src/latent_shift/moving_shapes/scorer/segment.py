"""Segmentation: the background, the colours on it, and how much of each pixel an object covers.

The first step of the scorer. It knows the palette of `constants.py` and how many objects to look for. A pixel
is a mixture of the background and one object or, where two objects touch, of those two. No general
segmentation: flat colours on a flat background.

Shape legend: F frames, H, W pixels, K objects, N foreground pixels; colours are RGB from 0 to 255.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from latent_shift.moving_shapes import constants

Floats = NDArray[np.float32]
Frames = NDArray[np.uint8]

_FOREGROUND = 50.0  # distance from the background, in colour levels, from which a pixel votes
_IMPURITY = 25.0  # penalty, in colour levels, on mixed pixels, so that pure colours are preferred
_MAX_DISTANCE = 70.0  # from all mixtures; pixels farther off belong to no object
_MIN_COVER = 0.15  # coverage below which a pixel counts as background
_SOLID = 0.3  # coverage from which neighbouring pixels are one component
_MIN_COMPONENT = 0.12  # share of an object's mass below which a separate component is dropped
_MIN_VOTES = 4.0  # pixels a frame, for a colour to be an object
_COLOURS = np.array(list(constants.COLOURS.values()), dtype=np.float32)  # (9, 3)
_BACKGROUNDS = np.array(list(constants.BACKGROUNDS.values()), dtype=np.float32)  # (6, 3)
_NAMES = tuple(constants.COLOURS)


@dataclass(frozen=True)
class Segments:
    """Segmentation of a clip.

    background: name of the nearest background colour. colours: names of the K objects found, most votes
    first. cover: (K, F, H, W), how much of each pixel an object covers, 0 to 1.
    """

    background: str
    colours: tuple[str, ...]
    cover: Floats


def segment(frames: Frames, num_objects: int) -> Segments:
    """Find at most `num_objects` objects of different colours in a clip (F, H, W, 3)."""
    pixels = frames.astype(np.float32)
    overall, backgrounds = _background_colours(frames)
    background = tuple(constants.BACKGROUNDS)[int(np.argmin(np.linalg.norm(_BACKGROUNDS - overall, axis=1)))]
    found = _vote(pixels, backgrounds)[:num_objects]
    cover = coverage(
        pixels, backgrounds, np.array([tint for _, tint in found], dtype=np.float32).reshape(-1, 3)
    )
    return Segments(background, tuple(_NAMES[colour] for colour, _ in found), cover)


def _background_colours(frames: Frames) -> tuple[Floats, Floats]:
    """Median colour of the whole clip (3,) and of each frame (F, 3): the background's."""
    flat = frames.reshape(len(frames), -1, 3)
    each = np.median(flat, axis=1).astype(np.float32)
    return np.median(each, axis=0).astype(np.float32), each


def _vote(pixels: Floats, backgrounds: Floats) -> list[tuple[int, Floats]]:
    """Palette indices of the colours present, most pixels first, each with its actual colour (3,).

    A pixel votes for the palette colour that has the nearest mixture with the background. The frames with the
    most votes for a colour are left out, so that one bad frame adds none.
    """
    offset = pixels - backgrounds[:, None, None, :]
    frame, row, column = np.nonzero(_squares(offset) > _FOREGROUND**2)
    offset = offset[frame, row, column]  # (N, 3)
    way = _COLOURS - backgrounds[:, None, :]  # (F, 9, 3)
    length = np.maximum((way**2).sum(-1), 1.0)  # (F, 9)
    along = (way[frame] @ offset[:, :, None])[..., 0]  # (N, 9)
    share = np.clip(along / length[frame], 0.0, 1.0)
    error = (offset**2).sum(-1)[:, None] - 2 * share * along + share**2 * length[frame]
    label = np.argmin(error + (_IMPURITY * (1.0 - share)) ** 2, axis=1)
    share = share[np.arange(len(label)), label]
    votes = np.bincount(frame * len(_NAMES) + label, weights=share, minlength=len(backgrounds) * len(_NAMES))
    by_frame = np.sort(votes.reshape(len(backgrounds), len(_NAMES)), axis=0)
    steady = by_frame[: len(backgrounds) - len(backgrounds) // 8].mean(axis=0)
    order = [int(k) for k in np.argsort(-steady, kind="stable") if steady[k] >= _MIN_VOTES]
    colours = pixels[frame, row, column]
    return [(k, _tint(colours[label == k], share[label == k], _COLOURS[k])) for k in order]


def _tint(colours: Floats, share: Floats, palette: Floats) -> Floats:
    """Actual colour of an object: the median of its purest pixels, (N, 3) to (3,)."""
    pure = share >= min(0.9, float(np.quantile(share, 0.5)))
    actual = np.median(colours[pure], axis=0).astype(np.float32)
    return actual if np.linalg.norm(actual - palette) < _MAX_DISTANCE else palette


def coverage(pixels: Floats, backgrounds: Floats, tints: Floats) -> Floats:
    """Coverage (K, F, H, W), 0 to 1, of pixels (F, H, W, 3) by each of 0 to 2 objects.

    backgrounds: (F, 3) colour of each frame's background; tints: (K, 3) colours of the objects.
    """
    offset = pixels - backgrounds[:, None, None, :]
    ways = tints[:, None, :] - backgrounds  # (K, F, 3)
    fits = [_project(offset, way) for way in ways]
    cover = np.zeros((len(tints), *pixels.shape[:3]), dtype=np.float32)
    if len(fits) == 1:
        share, error = fits[0]
        cover[0] = np.where(error < _MAX_DISTANCE**2, share, 0.0)
    elif len(fits) == 2:
        (share, error), (other_share, other_error) = fits
        between, mixed_error = _project(offset - ways[0][:, None, None, :], ways[1] - ways[0])
        mixed = mixed_error + (_IMPURITY / 2) ** 2 < np.minimum(error, other_error)
        known = np.minimum(np.minimum(error, other_error), mixed_error) < _MAX_DISTANCE**2
        first = error <= other_error
        cover[0] = known * np.where(mixed, 1.0 - between, np.where(first, share, 0.0))
        cover[1] = known * np.where(mixed, between, np.where(first, 0.0, other_share))
    cover[cover < _MIN_COVER] = 0.0
    return np.stack([_drop_small_components(one) for one in cover]) if len(tints) else cover


def _project(offset: Floats, way: Floats) -> tuple[Floats, Floats]:
    """Project `offset` (F, H, W, 3) onto `way` (F, 3): nearest share, 0 to 1, and the squared error left."""
    length = np.maximum((way**2).sum(-1), 1.0)[:, None, None]
    along = (offset.reshape(len(offset), -1, 3) @ way[:, :, None]).reshape(offset.shape[:3])
    share = np.clip(along / length, 0.0, 1.0)
    return share, _squares(offset) - share * (2.0 * along - share * length)


def _squares(offset: Floats) -> Floats:
    red, green, blue = offset[..., 0], offset[..., 1], offset[..., 2]
    return red * red + green * green + blue * blue


def _drop_small_components(cover: Floats) -> Floats:
    """Drop small separate components of each frame (F, H, W): noise, and rims of the other object."""
    joined = np.zeros((3, 3, 3), dtype=bool)
    joined[1] = True  # within a frame only
    components, count = ndimage.label(cover > _SOLID, structure=joined)
    if count == 0:
        return np.zeros_like(cover)
    mass = np.bincount(components.ravel(), weights=cover.ravel(), minlength=count + 1)
    mass[0] = 0.0
    frame_of = np.zeros(count + 1, dtype=np.int64)
    where = np.nonzero(components)
    frame_of[components[where]] = where[0]
    total = np.bincount(frame_of, weights=mass, minlength=len(cover))
    kept = mass >= _MIN_COMPONENT * total[frame_of]
    kept[0] = False
    near = ndimage.maximum_filter(kept[components].view(np.uint8), size=(1, 3, 3)).astype(bool)
    return np.where(near & (kept[components] | (components == 0)), cover, 0.0).astype(np.float32)
