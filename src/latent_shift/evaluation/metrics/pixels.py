"""What pixels alone tell of time: flicker, and whether anything moves.

Both are in the units of pixels, 0 to 255, and 0 for a still clip. Neither is better high or low by itself:
read them beside those of real clips. Shapes: F frames, H, W pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
BLOCKS = 32  # along the shorter side, over which motion is averaged
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def flicker(frames: Frames) -> float:
    """The mean absolute difference of neighbouring frames (F, H, W, 3), 0 to 255; 0 for a single frame.

    VBench (arXiv 2311.17982) scores (255 - this) / 255 as temporal flickering.
    """
    if len(frames) < 2:
        return 0.0
    before, after = frames[:-1], frames[1:]
    # Without leaving bytes, which is several times as fast.
    steps = np.maximum(before, after) - np.minimum(before, after)
    return float(steps.sum(dtype=np.int64)) / steps.size


def motion(frames: Frames) -> float:
    """How much a clip (F, H, W, 3) changes over its whole length, 0 to 127.5; 0 where nothing moves.

    The standard deviation over time of the brightness of blocks (32 along the shorter side), averaged over
    blocks. The blocks take out the noise of single pixels and of compression, which flicker counts; what is
    left is what moves, grows or fades. No optical flow: nothing to install, nothing to fail.
    """
    blocks = _blocks(frames)
    return float(blocks.std(axis=0).mean())


def _blocks(frames: Frames) -> NDArray[np.float32]:
    """(F, h, w): the mean brightness of square blocks; what does not fill a block at the edge is left out."""
    count, height, width, _ = frames.shape
    side = max(min(height, width) // BLOCKS, 1)
    rows, columns = height // side, width // side
    whole = frames[:, : rows * side, : columns * side].astype(np.float32)
    lines = whole.reshape(count, rows, side, columns, side * 3) @ np.tile(_LUMA, side)  # summed along a line
    blocks: NDArray[np.float32] = lines.sum(axis=2) / side**2
    return blocks
