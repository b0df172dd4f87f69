"""The interface of metrics, and what metrics on features share.

A metric is made anew for each source of clips. It takes the batches in as they come (`update`), then gives
its results (`compute`) from what it saw and from the features of all clips, which are computed once per
extractor however many metrics use them. A new metric is a subclass and a line in `METRICS`, or an entry
point of another package.

Shapes: N rows of D numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latent_shift.evaluation.features import Features, SourceFeatures
from latent_shift.evaluation.metrics.intervals import bootstrap, frames_of, normal_interval, wilson_interval
from latent_shift.evaluation.report import MetricInfo, MetricResult, Proportion
from latent_shift.evaluation.sources import ClipBatch

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class MetricOptions:
    """resamples: of the bootstrap, 0 for no intervals. is_splits: of the Inception Score."""

    resamples: int = 100
    is_splits: int = 1
    seed: int = 0


class Measurement(NamedTuple):
    """A metric with its settings, and its result."""

    info: MetricInfo
    result: MetricResult


class NotAvailable(ValueError):
    """Raised by a metric that clips, reference or extractors do not allow."""


class Metric(ABC):
    """A metric of one source of clips. notes: sentences for the report, added by `compute`."""

    def __init__(self, options: MetricOptions, extractor: str | None = None) -> None:
        self.options, self.extractor = options, extractor
        self.notes: list[str] = []

    def update(self, batch: ClipBatch) -> Sequence[str] | None:
        """Take in a batch of clips. Returns a line about each of them for the report's page, or None."""
        return None

    @abstractmethod
    def compute(self, clips: SourceFeatures, reference: SourceFeatures | None) -> list[Measurement]:
        """Return the results for all clips.

        Raises NotAvailable where clips, reference or extractors do not allow it, ValueError where the
        reference was measured with other settings.
        """


class FeatureMetric(Metric):
    """A metric that is computed for each extractor that allows it, or for `extractor` only."""

    needs = ""  # a sentence for NotAvailable

    def compute(self, clips: SourceFeatures, reference: SourceFeatures | None) -> list[Measurement]:
        """See `Metric.compute`."""
        chosen = [name for name in clips.features if self.extractor in (None, name)]
        found = [self.of_features(clips.features[name], clips, reference) for name in chosen]
        if not any(found):
            raise NotAvailable(f"{clips.name}: {self.needs}")
        return [measurement for measurement in found if measurement is not None]

    @abstractmethod
    def of_features(
        self, features: Features, clips: SourceFeatures, reference: SourceFeatures | None
    ) -> Measurement | None:
        """Return the result on the features of one extractor, None where these do not allow it."""


def settings_of(features: Features) -> dict[str, Any]:
    """Return the settings of a metric on these features."""
    return {**features.settings.model_dump(), "clips": len(features.clips)}


def result_of_clips(measure: Callable[[Indices], float], clips: int, options: MetricOptions) -> MetricResult:
    """Return `measure` of the numbers of all clips, its interval by redrawing clips."""
    value = measure(np.arange(clips))
    if options.resamples < 2 or clips < 2:
        return MetricResult(value=value)
    redrawn = bootstrap(measure, [clips], resamples=options.resamples, seed=options.seed)
    return with_interval(value, redrawn)


def mean_of_clips(values: Sequence[float] | NDArray[np.floating], options: MetricOptions) -> MetricResult:
    """Return the mean of a value of each clip (clips,), its interval by redrawing clips."""
    each = np.asarray(values)
    return result_of_clips(lambda chosen: float(each[chosen].mean()), len(each), options)


def result_of_rows(
    measure: Callable[..., float], first: Features, second: Features, resamples: int, seed: int
) -> MetricResult:
    """Return `measure` of the rows (N, D) of `first` and (M, D) of `second`.

    Its interval is by redrawing the clips of both, `resamples` times by `seed`.
    """
    one, other = first.need_rows("this"), second.need_rows("this")
    value = measure(one, other)
    if resamples < 2:
        return MetricResult(value=value)

    def redrawn(chosen: Indices, others: Indices) -> float:
        return measure(
            one[frames_of(chosen, first.rows_per_clip)], other[frames_of(others, second.rows_per_clip)]
        )

    counts = [len(first.clips), len(second.clips)]
    return with_interval(value, bootstrap(redrawn, counts, resamples=resamples, seed=seed))


def proportion(right: int, of: int) -> Proportion:
    """Return the share `right` of `of`, with Wilson's interval."""
    low, high = wilson_interval(right, of)
    return Proportion(value=right / of, low=low, high=high, right=right, of=of)


def with_interval(value: float, redrawn: NDArray[np.float64]) -> MetricResult:
    """Return a result with the interval that its redrawn values give."""
    low, high = normal_interval(value, redrawn)
    return MetricResult(value=value, low=low, high=high)
