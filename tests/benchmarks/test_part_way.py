"""The benchmark that samples from real clips under the noise of later steps."""

import math

import pytest
import torch

from benchmark_module import benchmark_module
from latent_shift.autoencoder import encode_frames
from latent_shift.checkpoints import load
from latent_shift.moving_shapes import caption, draw_scene, render


@pytest.fixture(scope="module")
def benchmark():
    with benchmark_module("part_way") as module:
        yield module


@pytest.fixture(scope="module")
def pipeline(benchmark):
    found = load("moving-shapes", device="cpu", dtype="fp32")
    found.set_progress_bar_config(disable=True)
    found.scheduler = benchmark.Late.from_config(found.scheduler.config)
    return found


@pytest.mark.slow
def test_from_little_noise_the_real_clip_comes_back_whatever_is_said(benchmark, pipeline):
    """The model is told another motion than the clip shows, and has two steps left to change it."""
    scene = draw_scene(909, 1, motions=("moving left",))
    latents = encode_frames(pipeline.vae, torch.from_numpy(render([scene]))[0], 16).float()
    wrong = caption(scene).replace("moving left", "moving right")
    level, clips = benchmark.finished(pipeline, latents, [wrong], left_out=18)
    assert clips.shape == (1, 16, 64, 64, 3)
    assert -1 < level < 1
    assert benchmark.score(clips[0], scene)[0]
    nothing, from_noise = benchmark.finished(pipeline, latents, [wrong], left_out=0)
    assert nothing == -math.inf
    assert not benchmark.score(from_noise[0], scene)[0]
