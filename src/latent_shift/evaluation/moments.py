"""Mean and covariance of features, a batch at a time, in float64.

Sums of squares lose digits where the mean is large; here each part keeps its own mean and its scatter about
it, and parts are joined by the formula of Chan, Golub and LeVeque ("Updating formulae and a pairwise
algorithm for computing sample variances", 1979). Rows are gathered into blocks of one size first, so that the
result does not depend on how the rows were batched, to the last digit.

Shapes: N rows, D numbers a row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BLOCK = 256  # rows joined at a time


class Moments:
    """Count, mean (D,) and scatter (D, D) about the mean of rows.

    moments = Moments(2048)
    moments.add(features)               # (N, 2048), as often as there are batches
    moments.mean, moments.covariance()
    """

    def __init__(self, width: int) -> None:
        self._count, self._mean, self._scatter = 0, np.zeros(width), np.zeros((width, width))
        self._waiting: list[NDArray[np.floating]] = []
        self._waiting_rows = 0

    @classmethod
    def of(cls, rows: NDArray[np.floating]) -> Moments:
        """Compute the moments of rows (N, D)."""
        moments = cls(rows.shape[1])
        moments.add(rows)
        return moments

    @classmethod
    def from_parts(cls, count: int, mean: Array, scatter: Array) -> Moments:
        """Restore saved moments. Raises ValueError where the parts do not fit together."""
        if count < 0 or scatter.shape != (mean.size, mean.size) or mean.ndim != 1:
            raise ValueError(
                f"moments of {count} rows with a mean {mean.shape} and a scatter {scatter.shape};"
                " expected (D,) and (D, D)"
            )
        moments = cls(mean.size)
        moments._join(count, mean.astype(np.float64), scatter.astype(np.float64))
        return moments

    @property
    def width(self) -> int:
        """Numbers a row."""
        return len(self._mean)

    @property
    def count(self) -> int:
        """Rows so far."""
        return self._count + self._waiting_rows

    @property
    def mean(self) -> Array:
        """Mean (D,) of all rows so far."""
        self._join_waiting(everything=True)
        return self._mean

    @property
    def scatter(self) -> Array:
        """Sum (D, D) over rows of their deviation from the mean, times itself."""
        self._join_waiting(everything=True)
        return self._scatter

    def covariance(self) -> Array:
        """Covariance (D, D), divided by the rows less one. Raises ValueError for fewer than two rows."""
        if self.count < 2:
            raise ValueError(f"a covariance of {self.count} rows; give at least 2")
        return self.scatter / (self.count - 1)

    def add(self, rows: NDArray[np.floating]) -> None:
        """Add rows (N, D). Raises ValueError for another width, and for values that are not finite."""
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise ValueError(f"rows are {rows.shape}; expected (N, {self.width})")
        if not np.isfinite(rows).all():
            raise ValueError("features are not finite: the extractor made NaN or infinity; use float32")
        self._waiting.append(rows)
        self._waiting_rows += len(rows)
        if self._waiting_rows >= BLOCK:
            self._join_waiting(everything=False)

    def merge(self, other: Moments) -> None:
        """Add the rows of `other`, which does not change."""
        if other.width != self.width:
            raise ValueError(f"moments of width {other.width} cannot join those of width {self.width}")
        mean, scatter = other.mean, other.scatter
        self._join_waiting(everything=True)
        self._join(other.count, mean, scatter)

    def _join_waiting(self, *, everything: bool) -> None:
        if not self._waiting_rows:
            return
        rows = np.concatenate(self._waiting)
        whole = len(rows) if everything else len(rows) - len(rows) % BLOCK
        for start in range(0, whole, BLOCK):
            block = rows[start : min(start + BLOCK, whole)].astype(np.float64)
            mean = block.mean(axis=0)
            block -= mean
            self._join(len(block), mean, block.T @ block)
        self._waiting = [rows[whole:].copy()] if whole < len(rows) else []
        self._waiting_rows = len(rows) - whole

    def _join(self, count: int, mean: Array, scatter: Array) -> None:
        total = self._count + count
        if not count:
            return
        shift = mean - self._mean
        self._scatter += scatter
        self._scatter += np.outer(shift * (self._count * count / total), shift)
        self._mean = self._mean + shift * (count / total)
        self._count = total
