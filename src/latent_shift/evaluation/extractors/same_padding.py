"""TensorFlow's padding "SAME": an output of ceil(size / stride), the odd pixel of padding at the far end.

torch pads both ends alike, so networks that come from TensorFlow pad by hand. Shapes: (..., sizes).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """`x` with zeros around its last dimensions, one for each entry of `kernel`."""
    padding: list[int] = []
    sizes = x.shape[-len(kernel) :]
    for size, wide, step in zip(reversed(sizes), reversed(kernel), reversed(stride), strict=True):
        whole = max(wide - (size % step or step), 0)
        padding += [whole // 2, whole - whole // 2]
    return functional.pad(x, padding) if any(padding) else x
