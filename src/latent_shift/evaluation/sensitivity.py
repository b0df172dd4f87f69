"""Sensitivity of an extractor: the Fréchet distance of clips from the same clips corrupted by degrees.

A distance that does not rise when frames are shuffled or frozen does not see time, whatever its name says.
Shapes: B clips, F frames, H, W pixels, uint8 (B, F, H, W, 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from latent_shift.evaluation.extractors.base import Extractor
from latent_shift.evaluation.features import Moments
from latent_shift.evaluation.metrics.distances import frechet_distance
from latent_shift.evaluation.plots import Line

Clips = NDArray[np.uint8]
AMOUNTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def sensitivity(
    batches: Iterable[Clips], extractor: Extractor, amounts: Sequence[float] = AMOUNTS, seed: int = 0
) -> list[Line]:
    """Return a line for each of CORRUPTIONS: the distance from the clean clips, over the amounts.

    batches: the clips, corrupted by `seed` before the extractor sees them. Raises ValueError where there are
    fewer than two rows, or an amount is not in 0 to 1.
    """
    plain = Moments(extractor.info.width)
    corrupted = {(kind, amount): Moments(extractor.info.width) for kind in CORRUPTIONS for amount in amounts}
    for number, clips in enumerate(batches):
        plain.add(_rows(extractor, clips))
        for (kind, amount), moments in corrupted.items():
            moments.add(_rows(extractor, corrupt(clips, kind, amount, seed + number)))
    return [
        Line(kind, [(amount, frechet_distance(plain, corrupted[kind, amount])) for amount in amounts])
        for kind in CORRUPTIONS
    ]


def corrupt(clips: Clips, kind: str, amount: float, seed: int = 0) -> Clips:
    """Return clips with one of CORRUPTIONS by an amount of 0 (nothing) to 1.

    seed: of random corruptions. Raises ValueError for another kind, or an amount out of range.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"corruption {kind!r}: expected one of {', '.join(CORRUPTIONS)}")
    if not 0 <= amount <= 1:
        raise ValueError(f"amount is {amount}; give 0 to 1")
    if amount == 0:
        return clips.copy()
    return CORRUPTIONS[kind](clips, amount, np.random.default_rng(seed))


def _noise(clips: Clips, amount: float, rng: np.random.Generator) -> Clips:
    """Gaussian noise of a standard deviation up to 64."""
    noisy = clips + 64 * amount * rng.standard_normal(clips.shape, dtype=np.float32)
    return noisy.round().clip(0, 255).astype(np.uint8)


def _blur(clips: Clips, amount: float, _: np.random.Generator) -> Clips:
    """Gaussian blur of a standard deviation up to a sixteenth of the height."""
    sigma = amount * clips.shape[2] / 16
    blurred = ndimage.gaussian_filter(clips.astype(np.float32), (0, 0, sigma, sigma, 0))
    return blurred.round().clip(0, 255).astype(np.uint8)


def _shuffle(clips: Clips, amount: float, rng: np.random.Generator) -> Clips:
    """The frames of a share of the clips in another order: each frame stays as good as it was."""
    shuffled = clips.copy()
    for number in range(round(amount * len(clips))):
        shuffled[number] = clips[number, rng.permutation(clips.shape[1])]
    return shuffled


def _freeze(clips: Clips, amount: float, _: np.random.Generator) -> Clips:
    """The last frames replaced by the one before them: up to all, where the first frame stands still."""
    kept = max(round((1 - amount) * clips.shape[1]), 1)
    frozen = clips.copy()
    frozen[:, kept:] = clips[:, kept - 1 : kept]
    return frozen


CORRUPTIONS: dict[str, Callable[[Clips, float, np.random.Generator], Clips]] = {
    "noise": _noise,
    "blur": _blur,
    "shuffle": _shuffle,
    "freeze": _freeze,
}


def _rows(extractor: Extractor, clips: Clips) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = extractor(torch.from_numpy(clips)).features.cpu().numpy()
    return rows
