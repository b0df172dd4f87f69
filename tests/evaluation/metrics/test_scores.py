"""Inception Score, CLIPSIM, flicker, motion and the bootstrap, each on cases that can be worked out."""

import numpy as np
import pytest

from latent_shift.evaluation.features import SourceFeatures, frames_of
from latent_shift.evaluation.metrics.base import MetricOptions, NotAvailable
from latent_shift.evaluation.metrics.intervals import bootstrap, normal_interval
from latent_shift.evaluation.metrics.scores import (
    clip_similarities,
    flicker,
    flicker_metric,
    inception_score,
    motion,
    motion_metric,
)
from latent_shift.evaluation.sources import ClipBatch


def test_sure_of_each_and_all_kinds_gives_the_number_of_classes():
    logits = np.eye(5).repeat(4, axis=0) * 1000
    assert inception_score(logits)[0] == pytest.approx(5)
    assert inception_score(np.zeros((20, 5)))[0] == pytest.approx(1)  # sure of none
    assert inception_score(np.tile([9.0, 0, 0], (20, 1)))[0] == pytest.approx(1)  # all of one kind


def test_the_score_is_the_plain_formula():
    logits = np.random.default_rng(0).normal(size=(30, 4))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    mean = chances.mean(axis=0)
    expected = np.exp(np.mean([sum(p * np.log(p / q) for p, q in zip(row, mean, strict=True)) for row in
                               chances]))  # fmt: skip
    assert inception_score(logits)[0] == pytest.approx(expected)
    assert inception_score(logits[::-1])[0] == pytest.approx(expected)


def test_splits_are_drawn_so_that_sorted_classes_do_no_harm():
    logits = np.eye(4).repeat(50, axis=0) * 50
    mean, deviation = inception_score(logits, splits=4, seed=1)
    assert mean > 3.7
    assert deviation > 0
    assert inception_score(logits, splits=4, seed=1) == (mean, deviation)
    with pytest.raises(ValueError, match="splits is 0"):
        inception_score(logits, splits=0)


def test_similarity_is_a_mean_of_cosines():
    frames = np.array([[[1.0, 0], [0, 2]], [[3.0, 3], [-1, 0]]])
    texts = np.array([[2.0, 0], [1.0, 0]])
    np.testing.assert_allclose(clip_similarities(frames, texts), [0.5, (2**-0.5 - 1) / 2])
    with pytest.raises(ValueError, match=r"expected \(B, F, D\)"):
        clip_similarities(frames, texts[:1])
    with pytest.raises(ValueError, match="length 0"):
        clip_similarities(np.zeros((1, 1, 2)), texts[:1])


def clip_of(levels, size=(64, 96)):
    return np.stack([np.full((*size, 3), level, np.uint8) for level in levels])


def test_flicker_is_in_pixel_units():
    assert flicker(clip_of([10, 14, 6])) == pytest.approx((4 + 8) / 2)
    assert flicker(clip_of([0, 255])) == 255
    assert flicker(clip_of([9, 9, 9])) == flicker(clip_of([9])) == 0


def test_motion_is_0_when_nothing_moves_and_hardly_sees_noise():
    still = clip_of([80] * 8)
    assert motion(still) == motion(still[:1]) == 0
    pixels = np.random.default_rng(1).integers(0, 256, (5, 66, 70, 3), dtype=np.uint8)
    bright = (pixels.astype(float) @ [0.299, 0.587, 0.114])[:, :66, :70]
    blocks = bright.reshape(5, 33, 2, 35, 2).mean(axis=(2, 4))
    assert motion(pixels) == pytest.approx(blocks.std(axis=0).mean(), rel=1e-5)
    steps = np.abs(np.diff(pixels.astype(float), axis=0))
    assert flicker(pixels) == pytest.approx(steps.mean())
    assert motion(clip_of([0, 255])) == pytest.approx(127.5)
    noisy = still + np.random.default_rng(0).integers(0, 20, still.shape).astype(np.uint8)
    moving = still.copy()
    for number, frame in enumerate(moving):
        frame[16:48, 8 * number : 8 * number + 24] = 250
    assert flicker(noisy) > 6
    assert motion(noisy) < 3 < motion(moving)


def test_motion_takes_any_size():
    assert motion(clip_of([0, 100], (3, 5))) == pytest.approx(50)
    assert motion(clip_of([0, 100], (131, 77))) == pytest.approx(50)


@pytest.mark.parametrize("metric", [flicker_metric, motion_metric])
def test_single_frames_have_neither_flicker_nor_motion(metric):
    measured = metric(MetricOptions())
    measured.update(ClipBatch(["a"], np.zeros((1, 1, 8, 8, 3), np.uint8), [None]))
    with pytest.raises(NotAvailable, match="f: (flicker|motion) needs clips of two frames or more"):
        measured.compute(SourceFeatures("f"), None)


def test_the_bootstrap_finds_the_error_of_a_mean_and_repeats_itself():
    values = np.random.default_rng(0).normal(size=400)
    redrawn = bootstrap(lambda chosen: float(values[chosen].mean()), [400], resamples=300, seed=2)
    assert redrawn.std() == pytest.approx(1 / 20, rel=0.15)
    again = bootstrap(lambda chosen: float(values[chosen].mean()), [400], resamples=300, seed=2)
    assert np.array_equal(redrawn, again)
    low, high = normal_interval(0.5, redrawn)
    assert high - 0.5 == pytest.approx(0.5 - low)
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_clips_are_redrawn_whole():
    assert frames_of(np.array([2, 0]), 3).tolist() == [6, 7, 8, 0, 1, 2]
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap(lambda chosen: 0.0, [3], resamples=1)
