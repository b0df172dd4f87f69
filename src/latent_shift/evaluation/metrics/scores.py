"""Metrics without a reference: Inception Score, CLIPSIM, flicker and motion.

The Inception Score (Salimans et al., arXiv 1606.03498) is exp of the mean divergence of a sample's class
probabilities from their mean: high where the classifier is sure of each sample, and all samples together are
of many classes. The name stays for any classifier, C3D for clips, another network elsewhere.

CLIPSIM (Wu et al., GODIVA, arXiv 2104.14806) is the mean cosine of image and text embeddings over the frames
of a clip, then over clips. Its value depends on the backbone (ViT-B/32, B/16, L/14): never print it without.

Flicker and motion are in the units of pixels, 0 to 255, and 0 for a still clip. Neither is better high or low
by itself: read them beside those of real clips.

Shapes: N samples, C classes; B clips, F frames, H, W pixels, D numbers an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from latent_shift.evaluation.extractors.base import ExtractorInfo
from latent_shift.evaluation.features import Features, SourceFeatures, frames_of
from latent_shift.evaluation.metrics.base import (
    FeatureMetric,
    Measurement,
    Metric,
    MetricOptions,
    NotAvailable,
    mean_of_clips,
    resampled,
    settings_of,
)
from latent_shift.evaluation.metrics.intervals import Indices
from latent_shift.evaluation.report import MetricInfo
from latent_shift.evaluation.sources import ClipBatch

Frames = NDArray[np.uint8]
BLOCKS = 32  # along the shorter side, over which motion is averaged
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


class InceptionScore(FeatureMetric):
    """Inception Score on the logits of every extractor that classifies."""

    needs = "the Inception Score needs an extractor that classifies, such as inception-v3 or c3d"

    def check(self, extractors: Sequence[ExtractorInfo], has_reference: bool) -> None:
        """See `Metric.check`."""
        super().check(extractors, has_reference)
        if all(info.classifies is False for info in self.chosen(extractors)):
            raise NotAvailable(self.needs)

    def of_features(
        self, features: Features, clips: SourceFeatures, reference: SourceFeatures | None
    ) -> Measurement | None:
        """See `FeatureMetric.of_features`."""
        if features.logits is None:
            return None
        logits, per_clip = features.logits, len(features.logits) // max(len(features.clips), 1)
        splits = min(self.options.is_splits, len(logits))

        def measure(chosen: Indices) -> float:
            return inception_score(
                logits[frames_of(chosen, per_clip)], splits=splits, seed=self.options.seed
            )[0]

        settings = settings_of(features) | {"splits": splits, "classes": logits.shape[1]}
        info = MetricInfo(name=f"IS ({features.settings.extractor})", better="higher", settings=settings)
        return Measurement(info, resampled(measure, [len(features.clips)], self.options))


class ClipSim(FeatureMetric):
    """CLIPSIM on every extractor that embeds texts, where every clip has a caption."""

    needs = "CLIPSIM needs an extractor that embeds texts, such as clip, and rows of features"
    needs_rows = True

    def check(self, extractors: Sequence[ExtractorInfo], has_reference: bool) -> None:
        """See `Metric.check`."""
        super().check(extractors, has_reference)
        if not any(info.embeds_texts for info in self.chosen(extractors)):
            raise NotAvailable(self.needs)

    def compute(self, clips: SourceFeatures, reference: SourceFeatures | None) -> list[Measurement]:
        """See `Metric.compute`."""
        lacking = [name for name, text in zip(clips.names, clips.captions, strict=True) if text is None]
        if lacking:
            reason = f"{lacking[0]}: has no caption; put one into a .txt of its name beside it"
            if len(lacking) < len(clips.names):
                self.notes.append(
                    f"{clips.name}: no CLIPSIM, for {len(lacking)} have no caption: {lacking[0]}"
                )
            raise NotAvailable(reason)
        return super().compute(clips, reference)

    def of_features(
        self, features: Features, clips: SourceFeatures, reference: SourceFeatures | None
    ) -> Measurement | None:
        """See `FeatureMetric.of_features`."""
        name = features.settings.extractor
        rows = features.rows
        if name not in clips.text_features or rows is None:
            return None
        frames = rows.reshape(len(features.clips), -1, rows.shape[1])
        each = clip_similarities(frames, clips.text_features[name])
        info = MetricInfo(name=f"CLIPSIM ({name})", better="higher", settings=settings_of(features))
        return Measurement(info, mean_of_clips(each, self.options))


def inception_score(logits: NDArray[np.floating], *, splits: int = 1, seed: int = 0) -> tuple[float, float]:
    """Return mean and standard deviation over `splits` of the score of logits (N, C), from 1 to C.

    With one split the order of the samples does not matter; with more, `seed` decides who falls into which,
    so that prompts sorted by class do not make splits of few classes. Raises ValueError where there are fewer
    samples than splits.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"splits is {splits}; give 1 to the number of samples, {len(logits)}")
    order = np.random.default_rng(seed).permutation(len(logits)) if splits > 1 else np.arange(len(logits))
    scores = [_score(logits[part]) for part in np.array_split(order, splits)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(logits: NDArray[np.floating]) -> float:
    logs = log_softmax(logits.astype(np.float64), axis=1)
    probabilities = np.exp(logs)
    mean = probabilities.mean(axis=0)
    # A class that no sample can be has log 0; its probabilities are 0, too, and so is what it adds.
    mean_logs = np.log(np.where(mean > 0, mean, 1.0))
    return float(np.exp((probabilities * (logs - mean_logs)).sum(axis=1).mean()))


def clip_similarities(frames: NDArray[np.floating], texts: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return mean cosines (B,), -1 to 1, of frames (B, F, D) with their clips' texts (B, D).

    Raises ValueError for other shapes, and for an embedding of length 0.
    """
    if frames.ndim != 3 or texts.shape != (frames.shape[0], frames.shape[2]):
        raise ValueError(f"frames {frames.shape} and texts {texts.shape}; expected (B, F, D) and (B, D)")
    cosines = np.einsum("bfd,bd->bf", _units(frames), _units(texts))
    means: NDArray[np.float64] = cosines.mean(axis=1)
    return means


def _units(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    exact = vectors.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=-1, keepdims=True)
    if not (lengths > 0).all():
        raise ValueError("an embedding is of length 0 or not a number, and has no direction")
    units: NDArray[np.float64] = exact / lengths
    return units


class PixelMetric(Metric):
    """The mean over clips of a function of their frames (F, H, W, 3)."""

    def __init__(
        self, of_clip: Callable[[Frames], float], options: MetricOptions, extractor: str | None = None
    ) -> None:
        super().__init__(options, extractor)
        self.of_clip = of_clip
        self.values: list[float] = []

    def update(self, batch: ClipBatch) -> None:
        """See `Metric.update`."""
        self.values += [self.of_clip(clip) for clip in batch.clips if len(clip) > 1]

    def compute(self, clips: SourceFeatures, reference: SourceFeatures | None) -> list[Measurement]:
        """See `Metric.compute`."""
        if not self.values:
            raise NotAvailable(f"{clips.name}: {self.of_clip.__name__} needs clips of two frames or more")
        settings = {"clips": len(self.values), **clips.read_settings}
        info = MetricInfo(name=self.of_clip.__name__, better="neither", settings=settings)
        return [Measurement(info, mean_of_clips(self.values, self.options))]


def flicker(frames: Frames) -> float:
    """Return the mean absolute difference of neighbouring frames (F, H, W, 3), 0 to 255; 0 for one frame.

    VBench (arXiv 2311.17982) scores (255 - this) / 255 as temporal flickering.
    """
    if len(frames) < 2:
        return 0.0
    before, after = frames[:-1], frames[1:]
    # Without leaving bytes, which is several times as fast.
    steps = np.maximum(before, after) - np.minimum(before, after)
    return float(steps.sum(dtype=np.int64)) / steps.size


def motion(frames: Frames) -> float:
    """Return how much a clip (F, H, W, 3) changes over its length, 0 to 127.5; 0 where nothing moves.

    The standard deviation over time of the brightness of blocks (32 along the shorter side), averaged over
    blocks. The blocks take out the noise of single pixels and of compression, which flicker counts; what is
    left is what moves, grows or fades. No optical flow: nothing to install, nothing to fail.
    """
    count, height, width, _ = frames.shape
    side = max(min(height, width) // BLOCKS, 1)
    rows, columns = height // side, width // side  # what does not fill a block at the edge is left out
    whole = frames[:, : rows * side, : columns * side].astype(np.float32)
    lines = whole.reshape(count, rows, side, columns, side * 3) @ np.tile(_LUMA, side)  # summed along a line
    blocks: NDArray[np.float32] = lines.sum(axis=2) / side**2
    return float(blocks.std(axis=0).mean())


flicker_metric, motion_metric = partial(PixelMetric, flicker), partial(PixelMetric, motion)
