"""Precision "auto": one answer for sampling and for training (but on Apple's GPUs), by the device.

Half precision on a GPU: bf16 where CUDA has it, else fp16. On a CPU bf16 where the processor has instructions
for it, else fp32. Not by a measurement: one that fell out otherwise would give other clips, and end a resumed
training.
"""

from __future__ import annotations

import warnings


class SlowPrecisionWarning(UserWarning):
    """The chosen precision is slow on this processor."""


def auto_dtype(device: str) -> str:
    """The name of the precision: "fp32", "bf16" or "fp16". device: "cpu", "cuda" or "mps"."""
    import torch

    if device == "cpu":
        return "bf16" if _has_bf16_instructions() else "fp32"
    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp16"


def warn_of_slow(setting: str, device: str) -> None:
    """Warn (SlowPrecisionWarning) of bf16 on a processor without instructions for it.

    setting: option and value, such as "dtype bf16". device: "cpu", "cuda" or "mps".
    """
    if device == "cpu" and setting.endswith("bf16") and auto_dtype("cpu") == "fp32":
        text = "this processor has no instructions for it, and takes many times as long as in fp32"
        warnings.warn(f"{setting}: {text}", SlowPrecisionWarning, stacklevel=2)


def _has_bf16_instructions() -> bool:
    import torch

    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
