"""The default model: it knows the words of its world, and shows them."""

import warnings

import numpy as np
import pytest
import torch

from latent_shift import LatentShiftPipeline
from latent_shift.checkpoints import resolve
from latent_shift.media import read_settings, write_clip
from latent_shift.moving_shapes import vocabulary
from latent_shift.moving_shapes.scorer import recognise
from latent_shift.prompts import warn_of_untrained

PROMPT = "a large red circle on a black background"


@pytest.fixture(scope="module")
def pipeline():
    pipeline = LatentShiftPipeline.from_pretrained(resolve("moving-shapes"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seed(number):
    return torch.Generator().manual_seed(number)


def test_it_knows_every_word_of_its_world(pipeline):
    assert set(pipeline.video_config.closed_vocabulary) == set(vocabulary())


def test_a_size_word_with_growing_is_a_sentence_that_it_learned(pipeline):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_untrained("a large square shrinking", pipeline.video_config.untrained_words)


@pytest.mark.slow
def test_a_clip_shows_the_colour_and_background_that_the_sentence_names(pipeline, tmp_path):
    clip = pipeline(
        f"{PROMPT[:18]} standing still {PROMPT[18:].strip()}", generator=seed(3), output_type="np"
    )
    frames = (clip.frames[0] * 255).round().astype(np.uint8)
    assert frames.shape == (16, 64, 64, 3)
    objects, background = recognise(frames, num_objects=1)
    assert (objects[0].colour, background) == ("red", "black")
    assert read_settings(write_clip(tmp_path / "clip.mp4", frames, 8, {"seed": 3})) == {"seed": 3}
