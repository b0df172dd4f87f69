"""The models that come with the package: stock, small, with not one parameter of their own."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from latent_shift import LatentShiftPipeline
from latent_shift.checkpoints import resolve

PROMPTS = {"moving-shapes": "a large red circle on a black background", "emoji": "a rocket"}
WHEEL = 94e6  # bytes of all models, which a wheel, of 95 MB at most, packs a tenth smaller


@pytest.fixture(scope="module", params=PROMPTS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name):
    return resolve(name)


@pytest.fixture(scope="module")
def pipeline(folder):
    pipeline = LatentShiftPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def files_of(folder):
    return [file for file in folder.rglob("*") if file.is_file()]


def test_all_fit_into_a_wheel():
    sizes = [file.stat().st_size for name in PROMPTS for file in files_of(resolve(name))]
    assert sum(sizes) <= WHEEL


def test_it_holds_no_pickle(folder):
    assert {file.suffix for file in files_of(folder)} <= {".json", ".safetensors", ".txt", ".md"}


def test_its_files_name_no_place_of_the_machine_that_made_it(folder):
    for file in folder.rglob("*.json"):
        assert "_name_or_path" not in json.loads(file.read_text()), file
        assert "runs/" not in file.read_text(), file


def test_its_unet_has_the_parameters_of_the_image_model_and_no_other(folder, pipeline):
    stock = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
    shapes = {name: tensor.shape for name, tensor in stock.state_dict().items()}
    assert {name: tensor.shape for name, tensor in pipeline.unet.state_dict().items()} == shapes


def test_one_frame_is_the_stock_pipelines_image(name, folder, pipeline):
    stock = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, safety_checker=None)
    stock.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "np"}
    first, second = (torch.Generator().manual_seed(1) for _ in range(2))
    expected = stock(PROMPTS[name], height=64, width=64, generator=first, **options).images[0]
    ours = pipeline(PROMPTS[name], num_frames=1, generator=second, **options).frames[0][0]
    assert np.array_equal(ours, expected)
