"""The model of animated emoji: its credits, and what it shows of a sentence."""

import warnings

import numpy as np
import pytest
import torch

from latent_shift import LatentShiftPipeline
from latent_shift.checkpoints import resolve
from latent_shift.emoji.constants import GROUNDS
from latent_shift.emoji.motion import name_motion
from latent_shift.prompts import warn_of_untrained


@pytest.fixture(scope="module")
def folder():
    return resolve("emoji")


@pytest.fixture(scope="module")
def pipeline(folder):
    pipeline = LatentShiftPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seed(number):
    return torch.Generator().manual_seed(number)


def test_its_card_credits_those_who_drew_the_pictures(folder):
    card = (folder / "README.md").read_text()
    for words in ("Microsoft", "MIT", "all-MiniLM-L6-v2", "Apache"):
        assert words in card


def test_its_examples_are_sentences_that_it_learned(folder, pipeline):
    examples = (folder / "examples.txt").read_text().splitlines()
    assert len(examples) >= 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for prompt in examples:
            warn_of_untrained(prompt, pipeline.video_config.untrained_words)
        warn_of_untrained("a ghost moving left", pipeline.video_config.untrained_words)
    with pytest.warns(UserWarning, match="'bouncing'"):
        warn_of_untrained("a ghost bouncing", pipeline.video_config.untrained_words)


@pytest.mark.slow
def test_a_clip_has_the_ground_that_the_sentence_names_and_moves(pipeline):
    clip = pipeline("a rocket on a navy background", generator=seed(3), output_type="np").frames[0]
    assert clip.shape == (16, 64, 64, 3)
    border = np.concatenate([clip[:, 0], clip[:, -1], clip[:, :, 0], clip[:, :, -1]], axis=1)
    assert np.abs(np.median(border, axis=(0, 1)) - np.array(GROUNDS["navy"]) / 255).max() < 0.08
    assert np.abs(np.diff(clip, axis=0)).mean() > 0.001


@pytest.mark.slow
def test_it_moves_as_the_sentence_says(pipeline):
    for motion in ("moving right", "growing"):
        clip = pipeline(f"a panda {motion}", generator=seed(3), output_type="np").frames[0]
        assert name_motion((clip * 255).round().astype(np.uint8)) == motion
