"""The model that comes with the package: stock, small, with not one parameter of its own, and alive."""

import json
import warnings

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from latent_shift import LatentShiftPipeline
from latent_shift.checkpoints import resolve
from latent_shift.media import read_settings, write_clip
from latent_shift.moving_shapes import vocabulary
from latent_shift.moving_shapes.scorer import recognise
from latent_shift.prompts import warn_of_untrained

PROMPT = "a large red circle on a black background"


@pytest.fixture(scope="module")
def folder():
    return resolve("moving-shapes")


@pytest.fixture(scope="module")
def pipeline(folder):
    pipeline = LatentShiftPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seed(number):
    return torch.Generator().manual_seed(number)


def test_it_is_small_and_holds_no_pickle(folder):
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".txt"}
    assert sum(file.stat().st_size for file in files) <= 40e6


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
    options = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "np"}
    expected = stock(PROMPT, height=64, width=64, generator=seed(1), **options).images[0]
    ours = pipeline(PROMPT, num_frames=1, generator=seed(1), **options).frames[0][0]
    assert np.array_equal(ours, expected)


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
