"""Targets of the denoising loss, by what a network predicts: noise, velocity or the clean sample.

`prediction_type` of the model's scheduler says which. Of z = a x + s n, with a^2 + s^2 = 1, the velocity is
a n - s x (arXiv 2202.00512). A network that is to give the noise back has to carry all of it; with fewer
channels in its first level than in its input it should predict the clean sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def prediction_target(kind: str, clean: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """The prediction of a perfect network, of the shape of `clean`.

    Args:
        kind: one of `PREDICTIONS`.
        clean: samples without noise.
        noise: what is added to them, of the same shape.
        alpha: the share of the signal in the variance, cumulated, of a shape that broadcasts.
    """
    if kind == "v_prediction":
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
    return {"epsilon": noise, "sample": clean}[kind]


def min_snr_weights(kind: str, alpha: Tensor, gamma: float) -> Tensor:
    """Min-SNR weights of the squared error of a prediction (arXiv 2303.09556, section 3.4), as alpha (B,)."""
    ratio = alpha / (1 - alpha)
    own = {"epsilon": ratio.clamp(min=1e-8), "v_prediction": ratio + 1, "sample": torch.ones_like(ratio)}
    return ratio.clamp(max=gamma) / own[kind]
