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

from latent_shift.evaluation.extractors.base import ExtractorInfo
from latent_shift.evaluation.features import Features, SourceFeatures
from latent_shift.evaluation.metrics.intervals import bootstrap, normal_interval, wilson_interval
from latent_shift.evaluation.report import MetricInfo, MetricResult, Proportion
from latent_shift.evaluation.sources import ClipBatch


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

    needs_rows = False  # of features, where their statistics do not do

    def __init__(self, options: MetricOptions, extractor: str | None = None) -> None:
        self.options, self.extractor = options, extractor
        self.notes: list[str] = []

    def check(self, extractors: Sequence[ExtractorInfo], has_reference: bool) -> None:
        """Raise NotAvailable for what these extractors do not allow, before clips are read."""
        return

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

    def check(self, extractors: Sequence[ExtractorInfo], has_reference: bool) -> None:
        """See `Metric.check`."""
        if self.extractor is not None and all(info.name != self.extractor for info in extractors):
            given = ", ".join(info.name for info in extractors)
            raise NotAvailable(f"{self.extractor}: is none of the extractors given ({given})")

    def chosen(self, extractors: Sequence[ExtractorInfo]) -> list[ExtractorInfo]:
        """Return the extractors that the metric may take."""
        return [info for info in extractors if self.extractor in (None, info.name)]

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


def resampled(
    measure: Callable[..., float], counts: Sequence[int], options: MetricOptions, *, quick: bool = True
) -> MetricResult:
    """Return `measure` of the numbers of the clips of each set, and its interval by redrawing them.

    counts: the clips of each set. options: resamples under 2 leave the interval out. quick: False does, too.
    """
    value = measure(*(np.arange(count) for count in counts))
    if options.resamples < 2 or max(counts) < 2 or not quick:
        return MetricResult(value=value)
    redrawn = bootstrap(measure, counts, resamples=options.resamples, seed=options.seed)
    low, high = normal_interval(value, redrawn)
    return MetricResult(value=value, low=low, high=high)


def mean_of_clips(values: Sequence[float] | NDArray[np.floating], options: MetricOptions) -> MetricResult:
    """Return the mean of a value of each clip (clips,), its interval by redrawing clips."""
    each = np.asarray(values)
    return resampled(lambda clips: float(each[clips].mean()), [len(each)], options)


def proportion(right: int, of: int) -> Proportion:
    """Return the share `right` of `of`, with Wilson's interval."""
    low, high = wilson_interval(right, of)
    return Proportion(value=right / of, low=low, high=high, right=right, of=of)
