"""The noise schedule of a model trained from nothing: which noise each timestep stands for.

Stock schedulers read it from their configuration: where a formula of theirs does not serve, the 1,000 numbers
themselves stand there (`trained_betas`), and every stock tool still opens the model.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from diffusers import DDIMScheduler

CENTRE = "log_snr_centre"  # the one key that a recipe's scheduler knows beyond DDIMScheduler's own
_STEPS = 1000
_LARGEST_BETA = 0.999


def noise_scheduler(configuration: dict[str, Any]) -> DDIMScheduler:
    """The scheduler of a recipe; with `log_snr_centre`, of the cosine schedule moved there."""
    rest = dict(configuration)
    if CENTRE not in rest:
        return DDIMScheduler(**rest)
    betas = cosine_betas(float(rest.pop(CENTRE)), rest.get("num_train_timesteps", _STEPS))
    return DDIMScheduler(**rest, trained_betas=betas)


def changed_scheduler(base: Any, changes: dict[str, Any]) -> DDIMScheduler:
    """A base's scheduler with these changes of its configuration, as in `noise_scheduler`."""
    known = set(inspect.signature(DDIMScheduler).parameters)
    kept = {key: value for key, value in base.config.items() if key in known}
    return noise_scheduler({**kept, **changes})


def cosine_betas(log_snr_centre: float, steps: int = _STEPS) -> list[float]:
    """Betas of the cosine schedule whose middle timestep has this log signal-to-noise ratio.

    log SNR(t) = centre - 2 log tan(pi t / 2), for t from 0 to 1 (arXiv 2301.11093, section 3.2). The frames
    of a clip say the same thing many times over, so its course is decided where single frames are all noise:
    a schedule for clips has its middle there.
    """
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    signal = torch.sigmoid(log_snr_centre - 2 * torch.log(torch.tan(math.pi * t / 2)))
    before = torch.cat([torch.ones(1, dtype=torch.float64), signal[:-1]])
    return [float(beta) for beta in (1 - signal / before).clamp(max=_LARGEST_BETA)]
