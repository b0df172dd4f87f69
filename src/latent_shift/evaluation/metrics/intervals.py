"""95 % intervals: how far a value would move with other clips of the same kind.

The bootstrap draws clips (not frames, which depend on one another) again with replacement and computes the
value anew; its spread over the draws gives the interval: value ± 1.96 standard deviations, 95 % where the
spread is about normal (Efron and Tibshirani, 1993, chapter 6). Not the percentiles: a Fréchet distance of
redrawn clips, some of them twice, is larger on average, and its percentiles may not even hold the value. The
interval says nothing of the bias that few samples bring. Shares have Wilson's interval (1927).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 100
_Z = 1.959964  # of 95 %
Indices = NDArray[np.int64]


def bootstrap(
    measure: Callable[..., float], counts: Sequence[int], *, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Return `measure` of redrawn clips, (resamples,): it is given the numbers of the clips of each set.

    counts: the clips of each set. The same seed gives the same values. Raises ValueError for under 2
    resamples, or an empty set.
    """
    if resamples < 2 or min(counts) < 1:
        raise ValueError(
            f"{resamples} resamples of {list(counts)} clips; give at least 2, and 1 clip of each"
        )
    found = []
    for number in range(resamples):
        rng = np.random.default_rng([seed, number])
        found.append(measure(*(rng.integers(0, count, count) for count in counts)))
    return np.array(found, dtype=np.float64)


def normal_interval(value: float, redrawn: NDArray[np.float64]) -> tuple[float, float]:
    """Return the interval of a value with these redrawn ones."""
    half = _Z * float(redrawn.std(ddof=1))
    return value - half, value + half


def wilson_interval(right: int, of: int) -> tuple[float, float]:
    """Return Wilson's interval of a share, `right` of `of`."""
    n, p = of, right / of
    if right in (0, n):
        edge = n / (n + _Z**2)
        return (edge, 1.0) if right else (0.0, 1.0 - edge)
    middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n))
    return middle - half, middle + half
