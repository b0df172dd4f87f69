"""Intervals and tests of shares: over prompts, and over prompts and raters at once.

The 95 % interval over prompts and raters: variances by the bootstrap (`scipy.stats.bootstrap`) over prompts
and over raters, less that over single answers, as both contain it (Cameron, Gelbach and Miller, 2011), and
Student's t with one less degree of freedom than there are raters or prompts. The pigeonhole bootstrap, which
redraws both at once, holds that part three times (Owen, 2007).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from latent_shift.study.results import Estimate

RESAMPLES = 1000
MOST_MISSING = 0.05  # of resamples; the others' variance would be too small
Numbers = NDArray[np.float64]
Groups = NDArray[np.int64]


def two_way_interval(
    statistic: Callable[[Numbers], Numbers],
    prompts: Groups,
    raters: Groups,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[tuple[float | None, float | None]]:
    """Return the 95 % interval of each value of a statistic, over prompts and raters.

    Args:
        statistic: takes weights of the answers (R, A), returns R times its V values, (R, V); NaN where
            answers of these weights have none.
        prompts: of each answer, numbered from 0 (A,).
        raters: of each answer, numbered from 0 (A,).
        resamples: of each of the three bootstraps.
        seed: of the resamples.

    The bounds are None where there are fewer than two prompts or raters, all values are equal, or more than
    one in twenty of the resamples have no value.
    """
    values = statistic(np.ones((1, len(prompts))))[0]
    clusters = min(prompts.max(), raters.max()) + 1
    if clusters < 2:
        return [(None, None)] * len(values)
    variances = [
        _variances(statistic, groups, resamples, seed + number)
        for number, groups in enumerate((prompts, raters, np.arange(len(prompts))))
    ]
    both = variances[0] + variances[1] - variances[2]
    # Drawn from few prompts or raters the sum may come out below the part of single answers; no truth does.
    error = np.sqrt(np.maximum(both, variances[2]))
    reach = stats.t.ppf(0.975, clusters - 1) * error
    return [
        (float(value - half), float(value + half)) if half > 0 else (None, None)
        for value, half in zip(values, reach, strict=True)
    ]


def _variances(statistic: Callable[[Numbers], Numbers], groups: Groups, resamples: int, seed: int) -> Numbers:
    """Variances of a statistic's values (V,) over groups of answers, redrawn with replacement."""
    count = int(groups.max()) + 1

    def of_redrawn(drawn: NDArray[np.int64], axis: int = -1) -> Numbers:
        drawn = drawn.reshape(-1, count)
        rows = np.arange(len(drawn))[:, None] * count
        times = np.bincount((drawn + rows).ravel(), minlength=drawn.size).reshape(-1, count)
        return statistic(times[:, groups].astype(np.float64)).T

    with warnings.catch_warnings():  # of percentiles that are not needed
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        redrawn = stats.bootstrap(
            (np.arange(count),),
            of_redrawn,
            n_resamples=resamples,
            batch=resamples,
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    if np.isnan(redrawn).mean() > MOST_MISSING:
        return np.full(len(redrawn), np.nan)
    return np.asarray(np.nanvar(redrawn, axis=-1, ddof=1))


def numbered(labels: Sequence[int]) -> Groups:
    """Return the labels as groups, numbered from 0 (A,)."""
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def clipped(share: float | None) -> float | None:
    """Return a bound of a share within 0 and 1."""
    return None if share is None else min(max(share, 0.0), 1.0)


def wilson_interval(right: int, of: int) -> Estimate | None:
    """Return a share with Wilson's interval; None for none of none."""
    if not of:
        return None
    found = stats.binomtest(right, of).proportion_ci(method="wilson")
    return Estimate(value=right / of, low=float(found.low), high=float(found.high))


def exact_test(right: int, of: int) -> float | None:
    """Return the two-sided p of the exact binomial test against a half; None for none of none."""
    return float(stats.binomtest(right, of).pvalue) if of else None
