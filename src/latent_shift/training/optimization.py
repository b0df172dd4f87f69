"""The optimizer as a recipe sets it, and its learning rate at every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from latent_shift.training.muon import Muon
from latent_shift.training.recipe import Optimizer


class Diverged(ValueError):
    """The loss, or a weight, is no longer a finite number."""


def new_optimizer(parameters: list[nn.Parameter], settings: Optimizer) -> torch.optim.Optimizer:
    """A new optimizer of the parameters: torch's AdamW, bitsandbytes' with its state in 8 bits, or Muon.

    Raises ValueError where the 8-bit one cannot run: it needs a CUDA GPU.
    """
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": settings.betas,
        "weight_decay": settings.weight_decay,
    }
    if settings.kind == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **options)
    if settings.kind == "muon":
        return Muon(parameters, **options)
    if not torch.cuda.is_available():
        raise ValueError("optimizer.kind: adamw-8bit needs a CUDA GPU; use adamw")
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ValueError("optimizer.kind: adamw-8bit needs pip install 'latent-shift[gpu]'") from error
    return AdamW8bit(parameters, **options)


def learning_rate(schedule: Optimizer, step: int, steps: int) -> float:
    """The rate at a step, counted from 1: linear warm-up, plateau, linear cool-down to nearly zero."""
    rise = step / schedule.warmup_steps if schedule.warmup_steps else 1.0
    fall = (steps - step + 1) / schedule.cooldown_steps if schedule.cooldown_steps else 1.0
    return schedule.learning_rate * min(1.0, rise, fall)
