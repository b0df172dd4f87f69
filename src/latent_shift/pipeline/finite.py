"""Numbers that are none: found where they arise, with the mend."""

from __future__ import annotations

import torch
from torch import Tensor


class NonFiniteError(ValueError):
    """Sampling met a NaN or an infinity; the message names the step and the mend."""


def check_finite(values: Tensor, subject: str, where: str) -> None:
    """Raise NonFiniteError for NaN or infinite values.

    subject: such as "latents are"; where: such as "after step 3 of 20".
    """
    if torch.isfinite(values).all():
        return
    mend = "load the model with torch_dtype=torch.float32 (in commands: --dtype fp32)"
    if values.dtype == torch.float32:
        mend = "the weights, or the scheduler's settings, are at fault"
    name = str(values.dtype).removeprefix("torch.")
    raise NonFiniteError(f"{subject} no longer finite {where} in {name}: {mend}")
