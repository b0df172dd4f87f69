"""The kernel distance: KID on image features, KVD on clip features (Bińkowski et al., arXiv 1801.01401).

The squared maximum mean discrepancy with the kernel (x·y / D + 1)³, estimated without bias: on average it
does not depend on the number of samples, which the Fréchet distance does, so it is the one to read for small
sets. It can come out a little below 0, and does for two sets that differ by less than chance.

Shapes: N, M rows; D numbers a row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SUBSETS, SUBSET_SIZE = 100, 1000  # as in the paper; smaller sets are taken whole, once


def kernel_distance(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    *,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> float:
    """The distance of rows (N, D) and (M, D): whole sets up to `subset_size`, else the mean over `subsets`.

    seed: of what chooses the subsets. Raises ValueError for other widths, or fewer than two rows.
    """
    _check(first, second)
    if max(len(first), len(second)) <= subset_size:
        return unbiased_discrepancy(first, second)
    chance = np.random.default_rng(seed)
    size = min(subset_size, len(first), len(second))
    found = [
        unbiased_discrepancy(
            first[chance.choice(len(first), size, replace=False)],
            second[chance.choice(len(second), size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return float(np.mean(found))


def unbiased_discrepancy(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """The squared discrepancy of rows (N, D) and (M, D), no row compared with itself."""
    return discrepancy_of_kernels(
        polynomial_kernel(first, first), polynomial_kernel(second, second), polynomial_kernel(first, second)
    )


def discrepancy_of_kernels(within: Array, other_within: Array, between: Array) -> float:
    """The same from the kernel values (N, N), (M, M) and (N, M)."""
    n, m = between.shape
    inside = (within.sum() - np.trace(within)) / (n * (n - 1))
    other_inside = (other_within.sum() - np.trace(other_within)) / (m * (m - 1))
    return float(inside + other_inside - 2 * between.mean())


def polynomial_kernel(first: NDArray[np.floating], second: NDArray[np.floating]) -> Array:
    """(N, M): the kernel of each of rows (N, D) with each of rows (M, D)."""
    products = first.astype(np.float64) @ second.astype(np.float64).T
    kernel: Array = (products / first.shape[1] + 1) ** 3
    return kernel


def _check(first: NDArray[np.floating], second: NDArray[np.floating]) -> None:
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"features of {first.shape[1]} and of {second.shape[1]} numbers cannot be compared")
    if min(len(first), len(second)) < 2:
        raise ValueError(f"a kernel distance of {len(first)} and {len(second)} rows; give at least 2 of each")
