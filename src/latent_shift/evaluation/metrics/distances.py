"""Distances of two sets of features: Fréchet (FID, FVD) and kernel (KID, KVD).

The Fréchet distance of two Gaussians (Heusel et al., arXiv 1706.08500, eq. 6):

    |m - n|² + Tr(A) + Tr(B) - 2 Tr((A B)^½)

The usual matrix square root of A B is of a product that is not symmetric, turns complex where a covariance
lacks rank, and loses half of its digits there. Here A = R Rᵀ and B = S Sᵀ are split into factors first; the
last trace is then the sum of the singular values of Rᵀ S, which are real and not negative by construction.
With fewer rows than numbers a row, the centred rows themselves are such factors: exact, and cheaper.

The kernel distance (Bińkowski et al., arXiv 1801.01401) is the squared maximum mean discrepancy with the
kernel (x·y / D + 1)³, estimated without bias: on average it does not depend on the number of samples, which
the Fréchet distance does, so it is the one to read for small sets. It can come out a little below 0. Frames
of one clip are near copies and no independent samples, so no two of them are compared with each other.

Shapes: N, M rows; D numbers a row; factors (D, K).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from latent_shift.evaluation.extractors.base import ExtractorInfo
from latent_shift.evaluation.features import Features, Moments, SourceFeatures, check_same, frames_of
from latent_shift.evaluation.metrics.base import (
    FeatureMetric,
    Measurement,
    MetricOptions,
    NotAvailable,
    resampled,
    settings_of,
)
from latent_shift.evaluation.report import MetricInfo, MetricResult

Array = NDArray[np.float64]
LARGEST_REDRAWN = 700  # of rows and numbers, the smaller: a Fréchet distance beyond takes seconds
_EXAMPLES = {"frame": "inception-v3 or moving-shapes-frames", "clip": "i3d or moving-shapes"}
SUBSETS, SUBSET_SIZE = 100, 1000  # of the kernel distance, as in its paper; smaller sets are taken whole


class Distance(FeatureMetric):
    """A distance from the reference, on features of frames or clips (`per`). kernel: or Fréchet.

    A Fréchet distance of many numbers and clips takes seconds, and a kernel distance beyond the size of its
    subsets is a mean of many, so these go without an interval.
    """

    def __init__(
        self, name: str, per: str, kernel: bool, options: MetricOptions, extractor: str | None = None
    ) -> None:
        super().__init__(options, extractor)
        self.name, self.per, self.kernel = name, per, kernel
        self.needs_rows = kernel
        self.needs = f"{name} needs a reference and an extractor of features of each {per}"
        if kernel:
            self.needs += ", with rows kept"

    def check(self, extractors: Sequence[ExtractorInfo], has_reference: bool) -> None:
        """See `Metric.check`."""
        super().check(extractors, has_reference)
        chosen = self.chosen(extractors)
        if not has_reference or all(info.per != self.per for info in chosen):
            needs = f"{self.needs}, such as {_EXAMPLES[self.per]}"
            given = [f"{info.name} gives features of each {info.per}" for info in chosen]
            raise NotAvailable("; ".join([needs, *given]))

    def of_features(
        self, features: Features, clips: SourceFeatures, reference: SourceFeatures | None
    ) -> Measurement | None:
        """See `FeatureMetric.of_features`. Warns where rows are few for a Fréchet distance."""
        name, per = features.settings.extractor, features.settings.per
        if per != self.per or reference is None or name not in reference.features:
            return None
        real = reference.features[name]
        check_same(real.settings, features.settings, "the reference and the clips")
        has_rows = features.rows is not None and real.rows is not None
        if self.kernel and not has_rows:
            return None
        for one in (real, features):
            of = "clip" if self.kernel else self.per
            if (count := len(one.clips) if self.kernel else one.moments.count) < 2:
                reason = f"{one.provenance.source}: {self.name} needs two {of}s or more, not {count}"
                self.notes.append(reason)
                raise NotAvailable(reason)
        if not self.kernel:
            for one in (real, features):
                warn_if_short(one.moments.count, one.moments.width, one.provenance.source)
        settings = settings_of(features) | _reference_settings(real)
        info = MetricInfo(name=f"{self.name} ({name})", better="lower", settings=settings)
        if not has_rows:
            return Measurement(info, MetricResult(value=frechet_distance(real.moments, features.moments)))
        counts = real.moments.count, features.moments.count
        if self.kernel:
            distance: Callable[..., float] = partial(
                kernel_distance, seed=self.options.seed, rows_per_clip=features.rows_per_clip
            )
            if features.rows_per_clip > 1:
                settings |= {"pairs": "of different clips"}
                info = MetricInfo(name=f"{self.name} ({name})", better="lower", settings=settings)
            quick = max(counts) <= SUBSET_SIZE
        else:
            distance, quick = frechet_of_rows, min(*counts, features.moments.width) <= LARGEST_REDRAWN
        result = resampled(
            lambda first, second: distance(real.rows_of(first), features.rows_of(second)),
            [len(real.clips), len(features.clips)],
            self.options,
            quick=quick,
        )
        return Measurement(info, result)


fid = partial(Distance, "FID", "frame", False)
kid = partial(Distance, "KID", "frame", True)
fvd = partial(Distance, "FVD", "clip", False)
kvd = partial(Distance, "KVD", "clip", True)


def _reference_settings(reference: Features) -> dict[str, Any]:
    """Return which clips the reference is of, by hashes over their names and, of files, their contents."""
    names = hashlib.sha256("\n".join(reference.clips).encode()).hexdigest()[:8]
    return {
        "reference": reference.provenance.source,
        "reference clips": len(reference.clips),
        "reference names": names,
        **({"reference stamp": stamp} if (stamp := reference.provenance.stamp) else {}),
    }


# ---- the Fréchet distance ---------------------------------------------------------------------------------


def frechet_distance(first: Moments, second: Moments) -> float:
    """Return the squared distance of two sets of features, by their moments; 0 for identical ones.

    Raises ValueError for other widths, or fewer than two rows.
    """
    _check_widths(first.width, second.width)
    one, other = first.covariance(), second.covariance()
    return gaussian_distance(first.mean, one, second.mean, other)


def gaussian_distance(mean: Array, covariance: Array, other_mean: Array, other_covariance: Array) -> float:
    """Return the same of two Gaussians.

    mean, other_mean: (D,). covariance, other_covariance: (D, D), symmetric and not negative.
    """
    factors = (square_factor(covariance), square_factor(other_covariance))
    traces = float(np.trace(covariance) + np.trace(other_covariance))
    return _distance(mean - other_mean, traces, *factors)


def frechet_of_rows(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return the squared distance of rows (N, D) and (M, D).

    Needs no (D, D) matrix where N and M are smaller than D. Raises as `frechet_distance`.
    """
    _check_widths(first.shape[1], second.shape[1])
    if min(len(first), len(second)) > first.shape[1]:
        return frechet_distance(Moments.of(first), Moments.of(second))
    (mean, factor), (other_mean, other_factor) = centred_factor(first), centred_factor(second)
    traces = float((factor**2).sum() + (other_factor**2).sum())
    return _distance(mean - other_mean, traces, factor, other_factor)


def square_factor(covariance: Array) -> Array:
    """Return R (D, D) with R Rᵀ = covariance; eigenvalues that rounding made negative count as 0."""
    values, vectors = scipy.linalg.eigh(covariance, check_finite=True)
    factor: Array = vectors * np.sqrt(np.maximum(values, 0.0))
    return factor


def centred_factor(rows: NDArray[np.floating]) -> tuple[Array, Array]:
    """Return the mean (D,) of rows (N, D), and R (D, N) with R Rᵀ = their covariance."""
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


# ---- the kernel distance ----------------------------------------------------------------------------------


def kernel_distance(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    *,
    rows_per_clip: int = 1,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> float:
    """Return the distance of `first` (N, D) and `second` (M, D): whole sets up to `subset_size`, else a mean.

    The mean is over `subsets` pairs of subsets of whole clips, drawn by `seed`. rows_per_clip: so many rows,
    one after the other, are of one clip. Raises ValueError for other widths, or fewer than two clips.
    """
    _check_widths(first.shape[1], second.shape[1])
    clips = [len(rows) // rows_per_clip for rows in (first, second)]
    if min(clips) < 2:
        of = "rows" if rows_per_clip == 1 else "clips"
        raise ValueError(f"a kernel distance of {clips[0]} and {clips[1]} {of}; give at least 2 of each")
    if max(len(first), len(second)) <= subset_size:
        return unbiased_discrepancy(first, second, rows_per_clip)
    rng = np.random.default_rng(seed)
    size = max(min(subset_size // rows_per_clip, *clips), 2)

    def drawn(rows: NDArray[np.floating], count: int) -> NDArray[np.floating]:
        return rows[frames_of(rng.choice(count, size, replace=False), rows_per_clip)]

    found = [
        unbiased_discrepancy(drawn(first, clips[0]), drawn(second, clips[1]), rows_per_clip)
        for _ in range(subsets)
    ]
    return float(np.mean(found))


def unbiased_discrepancy(
    first: NDArray[np.floating], second: NDArray[np.floating], rows_per_clip: int = 1
) -> float:
    """Return the squared discrepancy of rows (N, D) and (M, D), none compared with one of its own clip.

    rows_per_clip: as of `kernel_distance`.
    """
    within = [_mean_of_others(polynomial_kernel(rows, rows), rows_per_clip) for rows in (first, second)]
    return float(sum(within) - 2 * polynomial_kernel(first, second).mean())


def _mean_of_others(kernel: Array, rows_per_clip: int) -> float:
    """Return the mean of a kernel (N, N) over pairs of rows of different clips."""
    count = len(kernel)
    blocks = kernel.reshape(count // rows_per_clip, rows_per_clip, -1, rows_per_clip)
    own = np.einsum("iaib->", blocks)  # of pairs within a clip, a row with itself among them
    return float((kernel.sum() - own) / (count * (count - rows_per_clip)))


def polynomial_kernel(first: NDArray[np.floating], second: NDArray[np.floating]) -> Array:
    """Return the kernel (N, M) of each of rows (N, D) with each of rows (M, D)."""
    products = first.astype(np.float64) @ second.astype(np.float64).T
    kernel: Array = (products / first.shape[1] + 1) ** 3
    return kernel
