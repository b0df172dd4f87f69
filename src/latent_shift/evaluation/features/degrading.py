"""Clips made worse by degrees: what a distance must notice, and by how much it does.

For testing an extractor, and for the plot in the docs. Amounts are 0 (nothing) to 1. Shapes: B clips,
F frames, H, W pixels, uint8 (B, F, H, W, 3).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Clips = NDArray[np.uint8]


def degrade(clips: Clips, kind: str, amount: float, seed: int = 0) -> Clips:
    """Clips with a degradation of DEGRADATIONS. ValueError for another one, or an amount out of range."""
    if kind not in DEGRADATIONS:
        raise ValueError(f"degradation {kind!r}: expected one of {', '.join(DEGRADATIONS)}")
    if not 0 <= amount <= 1:
        raise ValueError(f"amount is {amount}; give 0 to 1")
    if amount == 0:
        return clips.copy()
    return DEGRADATIONS[kind](clips, amount, np.random.default_rng(seed))


def _noise(clips: Clips, amount: float, chance: np.random.Generator) -> Clips:
    """Gaussian noise of a standard deviation up to 64."""
    noisy = clips + 64 * amount * chance.standard_normal(clips.shape, dtype=np.float32)
    return noisy.round().clip(0, 255).astype(np.uint8)


def _blur(clips: Clips, amount: float, _: np.random.Generator) -> Clips:
    """Gaussian blur of a standard deviation up to a sixteenth of the height."""
    sigma = amount * clips.shape[2] / 16
    blurred = ndimage.gaussian_filter(clips.astype(np.float32), (0, 0, sigma, sigma, 0))
    return blurred.round().clip(0, 255).astype(np.uint8)


def _shuffle(clips: Clips, amount: float, chance: np.random.Generator) -> Clips:
    """The frames of a share of the clips in another order: each frame stays as good as it was."""
    shuffled = clips.copy()
    for number in range(round(amount * len(clips))):
        shuffled[number] = clips[number, chance.permutation(clips.shape[1])]
    return shuffled


def _freeze(clips: Clips, amount: float, _: np.random.Generator) -> Clips:
    """The last frames replaced by the one before them: up to all, where the first frame stands still."""
    frames = clips.shape[1]
    kept = max(round((1 - amount) * frames), 1)
    frozen = clips.copy()
    frozen[:, kept:] = clips[:, kept - 1 : kept]
    return frozen


DEGRADATIONS: dict[str, Callable[[Clips, float, np.random.Generator], Clips]] = {
    "noise": _noise,
    "blur": _blur,
    "shuffle": _shuffle,
    "freeze": _freeze,
}
