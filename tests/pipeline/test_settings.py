"""Settings belong to the U-Net: pipelines made of it have them; a file that cannot be fetched is an error."""

import copy
import json

import pytest
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from latent_shift import LatentShiftPipeline
from latent_shift.pipeline import LatentShiftXLPipeline
from latent_shift.shift import ShiftOptions
from latent_shift.unet import shift_options
from latent_shift.video_config import FILE_NAME, VideoConfig, fetch_video_config
from tiny import VIDEO_CONFIG, tiny_components, tiny_pipeline_folder
from tiny_xl import tiny_xl_components

SETTINGS = VideoConfig(**VIDEO_CONFIG, shift=ShiftOptions(padding="circular"), shared_noise_ratio=0.5)
LAYOUTS = {
    "sd": (LatentShiftPipeline, StableDiffusionPipeline, tiny_components),
    "xl": (LatentShiftXLPipeline, StableDiffusionXLPipeline, tiny_xl_components),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_settings_travel_with_the_unet(layout):
    ours, stock, components = LAYOUTS[layout]
    tuned = ours(**components())
    tuned.video_config = SETTINGS
    made = {
        "from_pipe": ours.from_pipe(tuned),
        "through the stock pipeline": ours.from_pipe(stock.from_pipe(tuned)),
        "components": ours(**tuned.components),
        "a copy": copy.deepcopy(tuned),
        "the U-Net, put into another": ours(**{**components(), "unet": tuned.unet}),
    }
    assert {name: pipeline.video_config for name, pipeline in made.items()} == dict.fromkeys(made, SETTINGS)
    copied = made["a copy"]
    copied.video_config = VideoConfig(fps=3)
    assert tuned.video_config == SETTINGS
    assert copied.video_config == VideoConfig(fps=3)


def test_the_ablation_without_shift_stays_without():
    tuned = LatentShiftPipeline(**tiny_components())
    tuned.video_config = VideoConfig(video_tuned=True, shift=None)
    again = LatentShiftPipeline.from_pipe(tuned)
    assert again.video_config == tuned.video_config
    assert shift_options(again.unet) is None


def test_the_files_of_the_unet_have_no_settings(tmp_path):
    tuned = LatentShiftPipeline(**tiny_components())
    tuned.video_config = SETTINGS
    tuned.unet.save_pretrained(tmp_path)
    assert "video_config" not in (tmp_path / "config.json").read_text()


# A hub's cache, as huggingface_hub lays it out

COMMIT = "0" * 40


@pytest.fixture
def cache(tmp_path):
    repository = tmp_path / "models--nobody--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    tiny_pipeline_folder(repository / "snapshots" / COMMIT, latent_shift=False)
    return tmp_path


def offline(cache):
    return {"cache_dir": cache, "local_files_only": True}


def test_settings_that_cannot_be_fetched_are_an_error(cache):
    with pytest.raises(
        ValueError, match=r"nobody/model: its latent_shift\.json.*could not be fetched: connect"
    ):
        LatentShiftPipeline.from_pretrained("nobody/model", **offline(cache))


def test_settings_in_the_cache_are_read_offline(cache):
    file = cache / "models--nobody--model" / "snapshots" / COMMIT / FILE_NAME
    file.write_text(json.dumps(VIDEO_CONFIG))
    pipeline = LatentShiftPipeline.from_pretrained("nobody/model", **offline(cache))
    assert pipeline.video_config == VideoConfig(**VIDEO_CONFIG)


def test_an_image_model_that_is_known_to_have_none_loads_offline(cache):
    absent = cache / "models--nobody--model" / ".no_exist" / COMMIT / FILE_NAME
    absent.parent.mkdir(parents=True)
    absent.touch()
    assert fetch_video_config("nobody/model", **offline(cache)) is None
    pipeline = LatentShiftPipeline.from_pretrained("nobody/model", **offline(cache))
    assert not pipeline.video_config.video_tuned
