"""The model of animated emoji in the package: stock parts, a real text encoder, and grounds as named."""

import json
import warnings

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from latent_shift import LatentShiftPipeline
from latent_shift.checkpoints import resolve
from latent_shift.emoji.constants import GROUNDS
from latent_shift.prompts import warn_of_untrained

WHEEL = 95e6  # bytes that a wheel with both models may have


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


def size_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_both_models_fit_into_a_wheel_and_hold_no_pickle(folder):
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".txt", ".md"}
    assert size_of(folder) + size_of(resolve("moving-shapes")) < WHEEL - 5e6


def test_its_card_credits_those_who_drew_the_pictures(folder):
    card = (folder / "README.md").read_text()
    for words in ("Microsoft", "MIT", "all-MiniLM-L6-v2", "Apache"):
        assert words in card


def test_its_files_name_no_place_of_the_machine_that_made_it(folder):
    for file in folder.rglob("*.json"):
        assert "_name_or_path" not in json.loads(file.read_text()), file
        assert "runs/" not in file.read_text(), file


def test_its_unet_has_the_parameters_of_the_image_model_and_no_other(folder, pipeline):
    stock = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
    shapes = {name: tensor.shape for name, tensor in stock.state_dict().items()}
    assert {name: tensor.shape for name, tensor in pipeline.unet.state_dict().items()} == shapes


def test_one_frame_is_the_stock_pipelines_image(folder, pipeline):
    stock = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, safety_checker=None)
    stock.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "np"}
    expected = stock("a rocket", height=64, width=64, generator=seed(1), **options).images[0]
    ours = pipeline("a rocket", num_frames=1, generator=seed(1), **options).frames[0][0]
    assert np.array_equal(ours, expected)


def test_its_examples_are_sentences_that_it_learned(folder, pipeline):
    examples = (folder / "examples.txt").read_text().splitlines()
    assert len(examples) >= 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for prompt in examples:
            warn_of_untrained(prompt, pipeline.video_config.untrained_words)
    with pytest.warns(UserWarning, match="'moving'"):
        warn_of_untrained("a ghost moving left", pipeline.video_config.untrained_words)


@pytest.mark.slow
def test_a_clip_has_the_ground_that_the_sentence_names_and_moves(pipeline):
    clip = pipeline("a rocket on a navy background", generator=seed(3), output_type="np").frames[0]
    assert clip.shape == (16, 64, 64, 3)
    border = np.concatenate([clip[:, 0], clip[:, -1], clip[:, :, 0], clip[:, :, -1]], axis=1)
    assert np.abs(np.median(border, axis=(0, 1)) - np.array(GROUNDS["navy"]) / 255).max() < 0.08
    assert np.abs(np.diff(clip, axis=0)).mean() > 0.001
