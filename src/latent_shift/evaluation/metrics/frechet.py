"""The Fréchet distance of two Gaussians: FID on image features, FVD on clip features.

    |m - n|² + Tr(A) + Tr(B) - 2 Tr((A B)^½)                      (Heusel et al., arXiv 1706.08500, eq. 6)

The usual matrix square root of A B is of a product that is not symmetric, turns complex where a covariance
lacks rank, and loses half of its digits there. Here A = R Rᵀ and B = S Sᵀ are split into factors first; the
last trace is then the sum of the singular values of Rᵀ S, which are real and not negative by construction.
With fewer rows than numbers a row, the centred rows themselves are such factors: exact, and cheaper.

Shapes: N, M rows; D numbers a row; factors (D, K).
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from latent_shift.evaluation.features.moments import Moments

Array = NDArray[np.float64]


def frechet_distance(first: Moments, second: Moments) -> float:
    """The squared distance of two sets of features, by their moments; 0 for identical ones.

    Raises ValueError for other widths, or fewer than two rows.
    """
    _check_widths(first.width, second.width)
    one, other = first.covariance(), second.covariance()
    return gaussian_distance(first.mean, one, second.mean, other)


def gaussian_distance(mean: Array, covariance: Array, other_mean: Array, other_covariance: Array) -> float:
    """The same of two Gaussians: means (D,), covariances (D, D), symmetric and not negative."""
    factors = (square_factor(covariance), square_factor(other_covariance))
    traces = float(np.trace(covariance) + np.trace(other_covariance))
    return _distance(mean - other_mean, traces, *factors)


def frechet_of_rows(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """The squared distance of rows (N, D) and (M, D); without any (D, D) matrix where N and M are smaller."""
    _check_widths(first.shape[1], second.shape[1])
    if min(len(first), len(second)) > first.shape[1]:
        return frechet_distance(Moments.of(first), Moments.of(second))
    (mean, factor), (other_mean, other_factor) = centred_factor(first), centred_factor(second)
    traces = float((factor**2).sum() + (other_factor**2).sum())
    return _distance(mean - other_mean, traces, factor, other_factor)


def square_factor(covariance: Array) -> Array:
    """R (D, D) with R Rᵀ = covariance; eigenvalues that rounding made negative count as 0."""
    values, vectors = scipy.linalg.eigh(covariance, check_finite=True)
    factor: Array = vectors * np.sqrt(np.maximum(values, 0.0))
    return factor


def centred_factor(rows: NDArray[np.floating]) -> tuple[Array, Array]:
    """The mean (D,) of rows (N, D), and R (D, N) with R Rᵀ = their covariance."""
    if len(rows) < 2:
        raise ValueError(f"a covariance of {len(rows)} rows; give at least 2")
    exact = rows.astype(np.float64)
    mean = exact.mean(axis=0)
    return mean, (exact - mean).T / np.sqrt(len(rows) - 1)


def warn_if_short(rows: int, width: int, name: str) -> None:
    """Warn where rows are too few for a covariance of full rank, with how many it takes."""
    if rows <= width:
        warnings.warn(
            f"{name}: {rows} rows of {width} numbers have no covariance of full rank, which needs {width + 1}"
            " rows or more: the Fréchet distance comes out too large; the kernel distance does not",
            stacklevel=2,
        )


def _distance(shift: Array, traces: float, factor: Array, other: Array) -> float:
    shared = float(scipy.linalg.svdvals(factor.T @ other).sum())  # Tr((A B)^½)
    # Of identical sets, rounding leaves some 1e-13 of the traces, on either side of 0.
    return max(float(shift @ shift) + traces - 2 * shared, 0.0)


def _check_widths(first: int, second: int) -> None:
    if first != second:
        raise ValueError(f"features of {first} and of {second} numbers cannot be compared")
