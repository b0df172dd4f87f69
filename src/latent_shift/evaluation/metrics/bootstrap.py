"""How far a figure would move with other clips of the same kind: intervals by the bootstrap.

Clips (not frames, which depend on one another) are drawn again with replacement, the figure is computed anew,
and its spread over the rng gives the interval: figure ± 1.96 standard deviations, 95 % where the spread is
about normal (Efron and Tibshirani, 1993, chapter 6). Not the percentiles: a Fréchet distance of redrawn
clips, some of them twice, is larger on average, and its percentiles may not even hold the figure. The
interval says nothing of the bias that few samples bring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 100
_Z = 1.959964  # of 95 %
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


def bootstrap(
    measure: Callable[..., float], counts: Sequence[int], *, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """`measure` of redrawn clips, (resamples,): it is given the numbers of the clips of each set.

    counts: the clips of each set. The same seed gives the same figures. Raises ValueError for under 2
    resamples, or an empty set.
    """
    if resamples < 2 or min(counts) < 1:
        raise ValueError(
            f"{resamples} resamples of {list(counts)} clips; give at least 2, and 1 clip of each"
        )
    found = []
    for number in range(resamples):
        chance = np.random.default_rng([seed, number])
        found.append(measure(*(chance.integers(0, count, count) for count in counts)))
    return np.array(found, dtype=np.float64)


def interval(value: float, redrawn: NDArray[np.float64]) -> Interval:
    """The interval of a figure whose redrawn ones are these."""
    half = _Z * float(redrawn.std(ddof=1))
    return Interval(value, value - half, value + half)


def frames_of(clips: Indices, rows_per_clip: int) -> Indices:
    """The rows of these clips, where each has `rows_per_clip` of them, one after the other."""
    rows: Indices = (clips[:, None] * rows_per_clip + np.arange(rows_per_clip)).ravel()
    return rows
