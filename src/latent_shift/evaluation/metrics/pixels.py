"""What pixels alone tell of time: flicker, and whether anything moves.

Both are in the units of pixels, 0 to 255, and 0 for a still clip. Neither is better high or low by itself:
read them beside those of real clips. Shapes: F frames, H, W pixels.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
BLOCKS = 32  # along the shorter side, over which motion is averaged
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def flicker(frames: Frames) -> float:
    """The mean absolute difference of neighbouring frames (F, H, W, 3), 0 to 255; 0 for a single frame.

    VBench (arXiv 2311.17982) scores (255 - this) / 255 as temporal flickering.
    """
    if len(frames) < 2:
        return 0.0
    steps = [np.abs(after.astype(np.int16) - before).mean() for before, after in pairwise(frames)]
    return float(np.mean(steps))


def motion(frames: Frames) -> float:
    """How much a clip (F, H, W, 3) changes over its whole length, 0 to 127.5; 0 where nothing moves.

    The standard deviation over time of the brightness of blocks (32 along the shorter side), averaged over
    blocks. The blocks take out the noise of single pixels and of compression, which flicker counts; what is
    left is what moves, grows or fades. No optical flow: nothing to install, nothing to fail.
    """
    blocks = _blocks(frames)
    return float(blocks.std(axis=0).mean())


def _blocks(frames: Frames) -> NDArray[np.float64]:
    """(F, h, w): the mean brightness of square blocks; what does not fill a block at the edge is left out."""
    count, height, width, _ = frames.shape
    side = max(min(height, width) // BLOCKS, 1)
    rows, columns = height // side, width // side
    bright = frames[:, : rows * side, : columns * side] @ _LUMA
    blocks: NDArray[np.float64] = bright.reshape(count, rows, side, columns, side).mean(axis=(2, 4))
    return blocks
