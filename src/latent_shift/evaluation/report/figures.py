"""From measured clips to figures with their columns: every metric that the features at hand allow.

The distances need a reference, measured alike; the Inception Score needs logits, CLIPSIM texts. Intervals are
by the bootstrap over clips; a Fréchet distance of many numbers and clips takes seconds, and a kernel distance
beyond the size of its subsets is a mean of many, so these go without.

Shapes: N rows of D numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent_shift.evaluation.features.files import Features
from latent_shift.evaluation.features.passing import Measured
from latent_shift.evaluation.features.settings import check_same
from latent_shift.evaluation.metrics.bootstrap import bootstrap, frames_of, interval
from latent_shift.evaluation.metrics.frechet import frechet_distance, frechet_of_rows, warn_if_short
from latent_shift.evaluation.metrics.inception_score import inception_score
from latent_shift.evaluation.metrics.kernel import SUBSET_SIZE, kernel_distance
from latent_shift.evaluation.metrics.similarity import clip_similarities
from latent_shift.evaluation.report.model import Column, Figure

LARGEST_REDRAWN = 700  # of rows and numbers, the smaller
Figures = dict[str, tuple[Column, Figure]]
Texts = dict[str, NDArray[np.floating]]  # the extractor's name, and (clips, D) of the clips' captions


@dataclass(frozen=True)
class Choices:
    """resamples: of the bootstrap, 0 for no intervals. splits: of the Inception Score. seed: of chance."""

    resamples: int = 100
    splits: int = 1
    seed: int = 0


def all_figures(
    measured: Measured, reference: Measured | None, texts: Texts | None = None, choices: Choices | None = None
) -> Figures:
    """Every figure of a set of clips, by the key of its column.

    Raises ValueError where the reference was measured with other settings.
    """
    chosen = choices or Choices()
    found: list[tuple[Column, Figure]] = []
    for name, features in measured.features.items():
        if reference is not None and name in reference.features:
            found += distances(features, reference.features[name], chosen)
        if features.logits is not None:
            found.append(score(features, chosen))
        if texts is not None and name in texts:
            found.append(similarity(features, texts[name], chosen))
    found += pixel_figures(measured, chosen)
    return {column.key: (column, figure) for column, figure in found}


def distances(features: Features, reference: Features, choices: Choices) -> list[tuple[Column, Figure]]:
    """The Fréchet distance, and, where rows were kept, the kernel distance, from a reference."""
    check_same(reference.settings, features.settings, "the reference and the clips")
    for one in (reference, features):
        warn_if_short(one.moments.count, one.moments.width, one.provenance.source)
    per_clip = features.settings.per == "clip"
    made_with = _made_with(features) | _reference(reference)
    name = features.settings.extractor
    frechet = Column(metric=f"{'FVD' if per_clip else 'FID'} ({name})", better="lower", made_with=made_with)
    if features.rows is None or reference.rows is None:
        return [(frechet, Figure(value=frechet_distance(reference.moments, features.moments)))]
    kernel = Column(metric=f"{'KVD' if per_clip else 'KID'} ({name})", better="lower", made_with=made_with)
    size = min(len(features.rows), len(reference.rows), features.moments.width)
    redrawn = choices.resamples if size <= LARGEST_REDRAWN else 0
    rows = (reference, features)
    most = max(len(features.rows), len(reference.rows))
    kernel_redrawn = choices.resamples if most <= SUBSET_SIZE else 0
    return [
        (frechet, _of_two(frechet_of_rows, rows, redrawn, choices.seed)),
        (kernel, _of_two(_kernel(choices.seed), rows, kernel_redrawn, choices.seed)),
    ]


def score(features: Features, choices: Choices) -> tuple[Column, Figure]:
    """The Inception Score of the logits. Raises ValueError where there are none."""
    if features.logits is None:
        raise ValueError(f"{features.settings.extractor}: does not classify, and gives no Inception Score")
    logits, per = features.logits, len(features.logits) // max(len(features.clips), 1)
    splits = min(choices.splits, len(logits))

    def measure(clips: NDArray[np.int64]) -> float:
        return inception_score(logits[frames_of(clips, per)], splits=splits, seed=choices.seed)[0]

    made_with = _made_with(features) | {"splits": splits, "classes": logits.shape[1]}
    column = Column(metric=f"IS ({features.settings.extractor})", better="higher", made_with=made_with)
    return column, _of_one(measure, len(features.clips), choices)


def similarity(features: Features, texts: NDArray[np.floating], choices: Choices) -> tuple[Column, Figure]:
    """CLIPSIM of clips with their captions' embeddings (clips, D)."""
    rows = features.need_rows("CLIPSIM")
    frames = rows.reshape(len(features.clips), -1, rows.shape[1])
    each = clip_similarities(frames, texts)
    column = Column(
        metric=f"CLIPSIM ({features.settings.extractor})", better="higher", made_with=_made_with(features)
    )
    return column, _of_one(lambda clips: float(each[clips].mean()), len(each), choices)


def pixel_figures(measured: Measured, choices: Choices) -> list[tuple[Column, Figure]]:
    """Flicker and motion, of which neither more nor less is better."""
    made_with: dict[str, Any] = {"clips": len(measured.names)}
    for features in list(measured.features.values())[:1]:
        told = features.settings.model_dump()
        made_with |= {name: told[name] for name in ("frames", "fps", "fit")}
    found = []
    for name, values in (("flicker", measured.pixels.flicker), ("motion", measured.pixels.motion)):
        each = np.array(values)
        column = Column(metric=name, better="neither", made_with=made_with)
        found.append((column, _of_one(_mean_of(each), len(each), choices)))
    return found


def _mean_of(each: NDArray[np.floating]) -> Callable[[NDArray[np.int64]], float]:
    return lambda clips: float(each[clips].mean())


def _kernel(seed: int) -> Callable[..., float]:
    return lambda first, second: kernel_distance(first, second, seed=seed)


def _of_two(
    measure: Callable[..., float], both: tuple[Features, Features], resamples: int, seed: int
) -> Figure:
    """A figure of two sets of rows, its interval by redrawing the clips of both."""
    first, second = (one.need_rows("this") for one in both)
    value = measure(first, second)
    if resamples < 2:
        return Figure(value=value)
    per = [one.rows_per_clip for one in both]

    def redrawn(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
        return measure(first[frames_of(one, per[0])], second[frames_of(other, per[1])])

    counts = [len(one.clips) for one in both]
    return _with_interval(value, bootstrap(redrawn, counts, resamples=resamples, seed=seed))


def _of_one(measure: Callable[..., float], clips: int, choices: Choices) -> Figure:
    value = measure(np.arange(clips))
    if choices.resamples < 2 or clips < 2:
        return Figure(value=value)
    return _with_interval(value, bootstrap(measure, [clips], resamples=choices.resamples, seed=choices.seed))


def _with_interval(value: float, redrawn: NDArray[np.float64]) -> Figure:
    found = interval(value, redrawn)
    return Figure(value=found.value, low=found.low, high=found.high)


def _made_with(features: Features) -> dict[str, Any]:
    return {**features.settings.model_dump(), "clips": len(features.clips)}


def _reference(reference: Features) -> dict[str, Any]:
    """Which clips the reference is of, by a hash over their names."""
    names = hashlib.sha256("\n".join(reference.clips).encode()).hexdigest()[:8]
    return {
        "reference": reference.provenance.source,
        "reference clips": len(reference.clips),
        "reference names": names,
    }


def captions_of(names: Sequence[str], captions: dict[str, str]) -> list[str]:
    """The captions of these clips. Raises ValueError naming the first without."""
    for name in names:
        if name not in captions:
            raise ValueError(f"{name}: has no caption; put one into a .txt of its name beside it")
    return [captions[name] for name in names]
