"""Of the same features, what a public implementation says: torchmetrics."""

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from latent_shift.evaluation.metrics.distances import frechet_of_rows, kernel_distance
from latent_shift.evaluation.metrics.scores import inception_score

SIZES = [(300, 300), (90, 400), (10, 8)]


class Features(nn.Module):
    """Takes rows for pictures, so that a public metric gets the very features that ours gets."""

    num_features = 12

    def forward(self, rows):
        return rows


def features(count, seed):
    chance = np.random.default_rng(seed)
    mixed = chance.normal(size=(Features.num_features, Features.num_features))
    return chance.normal(size=(count, Features.num_features)) @ mixed + seed


def distance_by(metric, first, second):
    metric.update(torch.from_numpy(first), real=True)
    metric.update(torch.from_numpy(second), real=False)
    return metric.compute()


@pytest.mark.parametrize(("count", "other"), SIZES)
def test_the_frechet_distance(count, other):
    first, second = features(count, 0), features(other, 1)
    public = float(distance_by(FrechetInceptionDistance(Features()), first, second))
    assert public > 1
    assert frechet_of_rows(first, second) == pytest.approx(public, rel=1e-6)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
@pytest.mark.parametrize("count", [300, 8])
def test_the_kernel_distance(count):
    first, second = features(count, 0), features(count, 1)
    whole = KernelInceptionDistance(Features(), subsets=1, subset_size=count)
    public, _ = distance_by(whole, first, second)
    assert kernel_distance(first, second) == pytest.approx(float(public), rel=1e-9)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore`", "ignore:std")
def test_the_inception_score():
    logits = features(200, 0)
    metric = InceptionScore(Features(), splits=1)
    metric.update(torch.from_numpy(logits))
    public, _ = metric.compute()
    assert 1.5 < public < Features.num_features
    assert inception_score(logits)[0] == pytest.approx(float(public), rel=1e-9)
