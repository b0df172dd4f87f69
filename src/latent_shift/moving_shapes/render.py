"""Renderer of the Moving Shapes world: scenes to pixels.

Vectorised over objects and frames; each object is drawn within a patch around it. Values that reach a pixel
come from comparisons, + - * / and square roots only, which IEEE arithmetic rounds correctly, and are blended
in integers: the same scenes give the same bytes on all machines, in any batch, for any choice of frames.
Stateless, so threads and processes may render at once.

Shape legend: B scenes, F frames, N patches, P side of a patch, S side of the frame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from latent_shift.moving_shapes import constants
from latent_shift.moving_shapes.scene import Object, Scene, frame_times, trajectory
from latent_shift.moving_shapes.shapes import outline_name, reach, signed_distance

_PATCH_STEP = 8
_CHUNK_PIXELS = 1 << 15  # keeps the intermediate planes in the processor's cache


def render(
    scenes: Sequence[Scene], frames: Sequence[int] | None = None, size: int = constants.SIZE
) -> NDArray[np.uint8]:
    """Render scenes: uint8 (B, F, S, S, 3), RGB.

    frames: indices of the frames to render, 0 to 15 (default: all); fewer frames cost proportionally less.
    size: S, in pixels. Raises ValueError for a frame outside 0 to 15 or a size that is not a positive
    multiple of 8.
    """
    chosen = np.arange(constants.FRAMES) if frames is None else np.asarray(frames, dtype=np.int64).reshape(-1)
    if chosen.size and (chosen.min() < 0 or chosen.max() >= constants.FRAMES):
        raise ValueError(f"frames are {list(chosen)}; they must lie from 0 to {constants.FRAMES - 1}")
    if size < _PATCH_STEP or size % _PATCH_STEP:
        raise ValueError(f"size is {size}; it must be a positive multiple of {_PATCH_STEP} pixels")
    backgrounds = np.array([constants.BACKGROUNDS[scene.background] for scene in scenes], dtype=np.uint8)
    clips = np.empty((len(scenes), len(chosen), size, size, 3), dtype=np.uint8)
    clips[:] = backgrounds.reshape(-1, 1, 1, 1, 3)
    images = clips.reshape(-1, size, size, 3)  # (B*F, S, S, 3), a view
    for layer in range(max((len(scene.objects) for scene in scenes), default=0)):
        objects = [(b, scene.objects[layer]) for b, scene in enumerate(scenes) if layer < len(scene.objects)]
        for targets, outline, path, colours, glyphs in _by_outline(objects, chosen):
            _draw(images, targets, outline, path, colours, glyphs)
    return clips


def _by_outline(
    objects: list[tuple[int, Object]], frames: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], str, NDArray[np.float32], NDArray[np.uint16], NDArray[np.int64]]]:
    """Group objects: image indices (N,), outline, trajectories (5, N), colours (N, 3), glyphs (N,)."""
    groups: dict[str, list[tuple[int, Object]]] = defaultdict(list)
    for scene, obj in objects:
        groups[outline_name(obj.shape)].append((scene, obj))
    times, count = frame_times(frames), len(frames)
    for outline, members in groups.items():
        targets = np.concatenate([np.arange(scene * count, (scene + 1) * count) for scene, _ in members])
        path = np.concatenate([np.stack(trajectory(obj, times)) for _, obj in members], axis=1)
        colours = np.array([constants.COLOURS[obj.colour] for _, obj in members], dtype=np.uint16)
        glyphs = np.array([obj.glyph for _, obj in members], dtype=np.int64)
        yield (
            targets,
            outline,
            path.astype(np.float32),
            np.repeat(colours, count, axis=0),
            np.repeat(glyphs, count),
        )


def _draw(
    images: NDArray[np.uint8],
    targets: NDArray[np.int64],
    outline: str,
    path: NDArray[np.float32],
    colours: NDArray[np.uint16],
    glyphs: NDArray[np.int64],
) -> None:
    """Blend the objects of one outline into their images, patches of one size together."""
    size = images.shape[1]
    half = path[2] * np.float32(reach(outline) * size / 2) + np.float32(1)
    sides = np.minimum((np.ceil((2 * half + 1) / _PATCH_STEP) * _PATCH_STEP).astype(np.int64), size)
    for side in np.unique(sides):
        members = np.flatnonzero(sides == side)
        step = max(1, _CHUNK_PIXELS // int(side) ** 2)
        for start in range(0, len(members), step):
            chunk = members[start : start + step]
            rows, columns, cover = _coverage(outline, path[:, chunk], glyphs[chunk], int(side), size)
            where = (targets[chunk][:, None, None], rows[:, :, None], columns[:, None, :])
            blended = images[where].astype(np.uint16)
            blended *= (np.uint16(256) - cover)[..., None]
            blended += cover[..., None] * colours[chunk][:, None, None, :]
            blended += np.uint16(128)
            blended >>= np.uint16(8)
            images[where] = blended.astype(np.uint8)


def _coverage(
    outline: str, path: NDArray[np.float32], glyphs: NDArray[np.int64], side: int, size: int
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
    distance = signed_distance(outline, u, v, glyphs)
    distance *= (radius * pixels)[:, None, None]
    cover = np.clip(np.float32(0.5) - distance, np.float32(0), np.float32(1))
    return rows, columns, (cover * np.float32(256) + np.float32(0.5)).astype(np.uint16)
