"""Drawing of scenes: frames of a pack, shrunk, turned and placed, over a flat ground.

Shapes: F frames of a clip, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from latent_shift.emoji.constants import FRAMES, GROUNDS
from latent_shift.emoji.pack import Pack
from latent_shift.emoji.scene import Placement, Scene, placement

Clip = NDArray[np.uint8]  # (F, S, S, 3)


def render(pack: Pack, scene: Scene, frames: Sequence[int] | None = None) -> Clip:
    """Draw a scene: uint8 (F, S, S, 3). frames: which of the sixteen; None: all."""
    rgba = picture(pack, scene, frames)
    ground = np.array(GROUNDS[scene.ground], np.float32)
    drawn = rgba[..., :3] + ground * (1 - rgba[..., 3:] / 255)
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def picture(pack: Pack, scene: Scene, frames: Sequence[int] | None = None) -> NDArray[np.float32]:
    """The placed picture without its ground, RGB premultiplied: float32 (F, S, S, 4) from 0 to 255."""
    numbers = np.arange(FRAMES) if frames is None else np.asarray(frames)
    loop = pack.frames(scene.clip)
    window = loop[(scene.start + numbers) % len(loop)].astype(np.float32)
    return place(window, placement(scene, numbers / (FRAMES - 1)))


def place(pictures: NDArray[np.float32], where: Placement) -> NDArray[np.float32]:
    """Resample pictures (F, S, S, 4), which fill the frame, to their places; beyond them all is 0.

    Bicubic, after a blur that keeps what is shrunk from aliasing.
    """
    smooth = np.empty_like(pictures)
    for frame, (image, size) in enumerate(zip(pictures, where.size, strict=True)):
        sigma = 0.5 * np.sqrt(max(1 / size**2 - 1, 0))
        smooth[frame] = ndimage.gaussian_filter(image, (sigma, sigma, 0)) if sigma > 0.3 else image
    cos, sin = np.cos(2 * np.pi * where.turns), np.sin(2 * np.pi * where.turns)
    # From places in the frame back to places in the picture: shifted, turned back, enlarged.
    rows = [
        np.stack([cos, sin, -cos * where.x - sin * where.y], axis=1),
        np.stack([-sin, cos, sin * where.x - cos * where.y], axis=1),
    ]
    back = np.stack(rows, axis=1) / where.size[:, None, None]
    images = torch.from_numpy(smooth).permute(0, 3, 1, 2)
    grid = functional.affine_grid(torch.from_numpy(back).float(), list(images.shape), align_corners=False)
    sampled = functional.grid_sample(images, grid, "bicubic", "zeros", align_corners=False)
    placed = np.asarray(sampled.permute(0, 2, 3, 1).clamp(0, 255).numpy(), np.float32)
    # Overshoots of the bicubic filter: no colour is brighter than its coverage.
    placed[..., :3] = np.minimum(placed[..., :3], placed[..., 3:])
    return placed
