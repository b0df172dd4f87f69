"""Precision "auto": one answer for sampling and for training, by what the device computes fastest.

Half precision on a GPU: bf16 where CUDA has it, else fp16. On a CPU bf16 where the processor has instructions
for it and a small convolution, measured, takes less time in it than in fp32; else fp32.
"""

from __future__ import annotations

import time
from functools import lru_cache

_SHAPE = (16, 64, 16, 16)  # (N, C, h, w) of the convolution
_REPEATS = 3


def auto_dtype(device: str) -> str:
    """The name of the precision: "fp32", "bf16" or "fp16". device: "cpu", "cuda" or "mps"."""
    import torch

    if device == "cpu":
        return "bf16" if _has_bf16_instructions() and _is_bf16_faster() else "fp32"
    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp16"


def _has_bf16_instructions() -> bool:
    import torch

    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@lru_cache(maxsize=1)
def _is_bf16_faster() -> bool:
    """Whether a convolution takes fewer CPU seconds in bf16: a hundredth of a second, once a process."""
    import torch

    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        images, times = torch.ones(_SHAPE, dtype=dtype), []
        weight = torch.ones(_SHAPE[1], _SHAPE[1], 3, 3, dtype=dtype)
        for _ in range(1 + _REPEATS):
            began = time.process_time()
            torch.nn.functional.conv2d(images, weight, padding=1)
            times.append(time.process_time() - began)
        seconds.append(min(times[1:]))
    return seconds[1] < seconds[0]
