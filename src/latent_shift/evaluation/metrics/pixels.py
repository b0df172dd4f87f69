"""Metrics on pixels: flicker, and whether anything moves.

Both are in the units of pixels, 0 to 255, and 0 for a still clip. Neither is better high or low by itself:
read them beside those of real clips. Shapes: F frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from latent_shift.evaluation.features import SourceFeatures
from latent_shift.evaluation.metrics.base import Measurement, Metric, MetricOptions, mean_of_clips
from latent_shift.evaluation.report import MetricInfo
from latent_shift.evaluation.sources import ClipBatch

Frames = NDArray[np.uint8]
BLOCKS = 32  # along the shorter side, over which motion is averaged
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


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
        self.values += [self.of_clip(clip) for clip in batch.clips]

    def compute(self, clips: SourceFeatures, reference: SourceFeatures | None) -> list[Measurement]:
        """See `Metric.compute`."""
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
