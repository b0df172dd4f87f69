"""From scenes to pixels: the renderer of the Moving Shapes world.

Vectorised over things and frames, each drawn only in a patch around it. The values that reach a pixel are
made of comparisons, + - * / and square roots, which IEEE arithmetic fixes to the last bit, and are blended
in whole numbers: the same scenes give the same bytes on every machine, alone or in a batch, whole clips or
single frames. No state is kept, so any number of threads and processes may render at once.

Shape legend: B scenes, F frames, N patches, P side of a patch, S side of the picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from latent_shift.moving_shapes import constants, glyphs
from latent_shift.moving_shapes.motion import frame_times, track
from latent_shift.moving_shapes.scene import Object, Scene, reach
from latent_shift.moving_shapes.shapes import OUTLINES

_PATCH_STEP = 8
_CHUNK_PIXELS = 1 << 15  # keeps the intermediate planes in the processor's cache


def render(
    scenes: Sequence[Scene], frames: Sequence[int] | None = None, size: int = constants.SIZE
) -> NDArray[np.uint8]:
    """Draw scenes: uint8 (B, F, S, S, 3), RGB.

    frames: which of the 16 frames to draw (all by default); drawing few costs proportionally less.
    Raises ValueError for a frame outside 0 to 15 or a size that is not a positive multiple of 8.
    """
    chosen = _frame_indices(frames)
    if size < _PATCH_STEP or size % _PATCH_STEP:
        raise ValueError(f"size is {size}; it must be a positive multiple of {_PATCH_STEP} pixels")
    count = len(chosen)
    grounds = np.array([constants.BACKGROUNDS[scene.background] for scene in scenes], dtype=np.uint8).reshape(
        -1, 3
    )
    picture = np.empty((len(scenes), count, size, size, 3), dtype=np.uint8)
    picture[:] = grounds[:, None, None, None, :]
    pages = picture.reshape(-1, size, size, 3)  # (B*F, S, S, 3), a view
    for layer in range(max((len(scene.things) for scene in scenes), default=0)):
        things = [(b, scene.things[layer]) for b, scene in enumerate(scenes) if layer < len(scene.things)]
        for pages_of, shape, path, colours, scans in _by_shape(things, chosen):
            _draw(pages, pages_of, shape, path, colours, scans)
    return picture


def _frame_indices(frames: Sequence[int] | None) -> NDArray[np.int64]:
    chosen = np.arange(constants.FRAMES) if frames is None else np.asarray(frames, dtype=np.int64).reshape(-1)
    if chosen.size and (chosen.min() < 0 or chosen.max() >= constants.FRAMES):
        raise ValueError(f"frames are {list(chosen)}; they must lie from 0 to {constants.FRAMES - 1}")
    return chosen


def _by_shape(
    things: list[tuple[int, Object]], frames: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], str, NDArray[np.float32], NDArray[np.uint16], NDArray[np.int64]]]:
    """Gather things of one outline: pages (N,), the outline, tracks (5, N), colours (N, 3), scans (N,)."""
    groups: dict[str, list[tuple[int, Object]]] = defaultdict(list)
    for scene, thing in things:
        groups["digit" if constants.is_digit(thing.shape) else thing.shape].append((scene, thing))
    times, count = frame_times(frames), len(frames)
    for shape, members in groups.items():
        pages = np.concatenate([np.arange(scene * count, (scene + 1) * count) for scene, _ in members])
        path = np.concatenate([np.stack(track(thing, times)) for _, thing in members], axis=1)
        colours = np.array([constants.COLOURS[thing.colour] for _, thing in members], dtype=np.uint16)
        scans = np.array([thing.scan for _, thing in members], dtype=np.int64)
        yield (
            pages,
            shape,
            path.astype(np.float32),
            np.repeat(colours, count, axis=0),
            np.repeat(scans, count),
        )


def _draw(
    pages: NDArray[np.uint8],
    pages_of: NDArray[np.int64],
    shape: str,
    path: NDArray[np.float32],
    colours: NDArray[np.uint16],
    scans: NDArray[np.int64],
) -> None:
    """Blend one shape's things into their pages, patches of one size together."""
    size = pages.shape[1]
    half = path[2] * np.float32((glyphs.REACH if shape == "digit" else reach(shape)) * size / 2) + np.float32(
        1
    )
    sides = np.minimum((np.ceil((2 * half + 1) / _PATCH_STEP) * _PATCH_STEP).astype(np.int64), size)
    for side in np.unique(sides):
        members = np.flatnonzero(sides == side)
        step = max(1, _CHUNK_PIXELS // int(side) ** 2)
        for start in range(0, len(members), step):
            chunk = members[start : start + step]
            rows, columns, cover = _coverage(shape, path[:, chunk], scans[chunk], int(side), size)
            where = (pages_of[chunk][:, None, None], rows[:, :, None], columns[:, None, :])
            under = pages[where].astype(np.uint16)
            under *= (np.uint16(256) - cover)[..., None]
            under += cover[..., None] * colours[chunk][:, None, None, :]
            under += np.uint16(128)
            under >>= np.uint16(8)
            pages[where] = under.astype(np.uint8)


def _coverage(
    shape: str, path: NDArray[np.float32], scans: NDArray[np.int64], side: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint16]]:
    """Rows (N, P) and columns (N, P) of each patch, and its pixels' coverage, 0 to 256 (N, P, P)."""
    x, y, radius, cos, sin = path
    pixels = np.float32(size / 2)
    offsets = np.arange(side)
    rows, columns = (
        np.clip(np.floor((centre + 1) * pixels).astype(np.int64) - side // 2, 0, size - side)[:, None]
        + offsets
        for centre in (y, x)
    )
    scale = np.float32(1) / radius
    across, down = (
        ((index.astype(np.float32) + np.float32(0.5)) / pixels - np.float32(1) - centre[:, None])
        * scale[:, None]
        for index, centre in ((columns, x), (rows, y))
    )
    across, down = across[:, None, :], down[:, :, None]
    cos, sin = cos[:, None, None], sin[:, None, None]
    u, v = cos * across + sin * down, cos * down - sin * across
    distance = glyphs.outline(u, v, scans) if shape == "digit" else OUTLINES[shape](u, v)
    distance *= (radius * pixels)[:, None, None]
    cover = np.clip(np.float32(0.5) - distance, np.float32(0), np.float32(1))
    return rows, columns, (cover * np.float32(256) + np.float32(0.5)).astype(np.uint16)
