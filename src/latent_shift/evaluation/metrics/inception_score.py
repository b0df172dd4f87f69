"""The Inception Score (Salimans et al., arXiv 1606.03498): sure of each sample, of many kinds over all.

exp of the mean divergence of a sample's class probabilities from their mean, in each of some splits. The name
stays whatever the classifier: C3D on UCF-101's clips, another network elsewhere; say which.

Shapes: N samples, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax


def inception_score(logits: NDArray[np.floating], *, splits: int = 1, seed: int = 0) -> tuple[float, float]:
    """The mean and standard deviation over `splits` of the score of logits (N, C), from 1 to C.

    With one split the order of the samples does not matter; with more, `seed` decides who falls into which,
    so that prompts sorted by class do not make splits of few classes. Raises ValueError where there are fewer
    samples than splits.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"splits is {splits}; give 1 to the number of samples, {len(logits)}")
    order = np.random.default_rng(seed).permutation(len(logits)) if splits > 1 else np.arange(len(logits))
    scores = [_score(logits[part]) for part in np.array_split(order, splits)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(logits: NDArray[np.floating]) -> float:
    logs = log_softmax(logits.astype(np.float64), axis=1)
    chances = np.exp(logs)
    mean = chances.mean(axis=0)
    # A class that no sample can be has log 0; its chances are 0, too, and so is what it adds.
    mean_logs = np.log(np.where(mean > 0, mean, 1.0))
    return float(np.exp((chances * (logs - mean_logs)).sum(axis=1).mean()))
