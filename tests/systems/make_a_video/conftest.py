"""Tiny recipes of all stages of Make-A-Video, and a model of them: real, untrained, all weights at random.

Frames of 16 pixels from text, of 32 and of 64 after super-resolution; patches of 4 pixels.
"""

import copy
from pathlib import Path

import pytest
import torch
import yaml
from transformers import VivitConfig, VivitModel

from latent_shift.systems.make_a_video.stage import StageNetwork
from latent_shift.systems.make_a_video.system import MakeAVideo
from latent_shift.training.recipe import load_recipe
from latent_shift.training.task import build_task
from tiny import TEXT_WIDTH, tiny_text_encoder, tiny_tokenizer

SCHEDULER = {
    "log_snr_shift": -4.0,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "steps_offset": 1,
}
BASICS = {
    "steps": 4,
    "batch_size": 2,
    "mixed_precision": "fp32",
    "log_every": 1,
    "optimizer": {"learning_rate": 0.003, "warmup_steps": 0},
    "source": {"format": "moving-shapes", "seed": 3, "clips": 6},
}
LEVELS = {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "resnet_time_scale_shift": "scale_shift",
}
UNET = {
    **LEVELS,
    "sample_size": 4,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "cross_attention_dim": TEXT_WIDTH,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
}
FROM_STILLS = {
    **{key: value for key, value in UNET.items() if key != "addition_embed_type_num_heads"},
    "addition_embed_type": "image",
    "encoder_hid_dim_type": "image_proj",
    "encoder_hid_dim": TEXT_WIDTH,
}
SUPER_RESOLUTION = {**LEVELS, "sample_size": 8, "add_attention": False}
SAMPLING = {"num_inference_steps": 2, "guidance_scale": 2.0}
LARGER = {"num_inference_steps": 2, "noise_level": 0.1}


def contents(folder: Path, models: Path) -> dict[str, dict]:
    """Recipes as their YAML would be read, by stage; `models` holds the text encoder and exported stages."""
    text = {"scheduler": SCHEDULER, "sampling": SAMPLING}
    larger = {"scheduler": SCHEDULER, "sampling": LARGER}
    clips = {"frame_stride": 3, "temporal_head_width": 8}
    every = {
        "image": {
            "task": "make_a_video_image", "size": 16, "patch": 4, "unet": UNET,
            "text_encoder_from": str(models / "text"), **text,
        },
        "image_sr": {
            "task": "make_a_video_image_sr", "size": 32, "low_size": 16, "patch": 4,
            "unet": SUPER_RESOLUTION, **larger,
        },
        "video": {
            "task": "make_a_video_video", "init_from": str(models / "image"), **text, **clips,
            "frame_position_embedding": True, "image_batch_ratio": 0.3,
        },
        "interpolation": {
            "task": "make_a_video_interpolation", "init_from": str(models / "video"), **text,
            "keyframe_stride": 3,
        },
        "video_sr": {
            "task": "make_a_video_video_sr", "init_from": str(models / "image_sr"), **larger, **clips,
            "image_batch_ratio": 0.3,
        },
        "high_sr": {
            "task": "make_a_video_image_sr", "stage": "high_sr", "size": 64, "low_size": 32, "patch": 4,
            "unet": SUPER_RESOLUTION, **larger,
        },
        "prior": {
            "task": "make_a_video_prior", "text_encoder_from": str(models / "text"),
            "video_encoder_from": str(models / "text"),
            "prior": {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8},
            "sampling": {"num_inference_steps": 2, "num_draws": 2},
        },
        "prior-image": {
            "task": "make_a_video_image", "text_conditioning": "prior", "size": 16, "patch": 4,
            "unet": FROM_STILLS, "text_encoder_from": str(models / "text"),
            "video_encoder_from": str(models / "text"), **text,
        },
        "prior-video": {
            "task": "make_a_video_video", "init_from": str(models / "prior-image"), **text, **clips,
            "video_encoder_from": str(models / "text"), "image_batch_ratio": 0.3,
        },
    }  # fmt: skip
    return {name: {**BASICS, **one, "output": str(folder / name)} for name, one in every.items()}


def write(folder: Path, models: Path, name: str, changes: dict) -> Path:
    """The recipe of a stage as a file."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**contents(folder, models)[name], **changes}))
    return path


@torch.no_grad()
def shake(network: StageNetwork) -> StageNetwork:
    """Move all weights, so that nothing is zero or the identity, as after a training."""
    draw = torch.Generator().manual_seed(7)
    for parameter in network.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
    return network


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder with the exported folder of each stage by name, and the encoders in `text`."""
    folder = tmp_path_factory.mktemp("make-a-video")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder / "text" / "tokenizer")
    tiny_text_encoder(tokenizer).save_pretrained(folder / "text" / "text_encoder")
    torch.manual_seed(0)
    config = VivitConfig(
        image_size=16, num_frames=2, tubelet_size=[2, 8, 8], hidden_size=TEXT_WIDTH, intermediate_size=16,
        num_hidden_layers=1, num_attention_heads=2,
    )  # fmt: skip
    VivitModel(config, add_pooling_layer=False).save_pretrained(folder / "text" / "clip_tower")
    for name in contents(folder, folder):
        task = build_task(load_recipe(write(folder, folder, name, {})))
        if hasattr(task, "stage"):
            shake(task.stage)
        task.export(folder / name)
    return folder


@pytest.fixture
def recipe_file(tmp_path, models):
    """Write the tiny recipe of a stage, with changes laid over its keys; gives its path."""
    return lambda name, **changes: write(tmp_path, models, name, changes)


@pytest.fixture
def task(recipe_file):
    """Build the task of a stage, with changes laid over the keys of its recipe."""
    return lambda name, **changes: build_task(load_recipe(recipe_file(name, **changes)))


@pytest.fixture(scope="session")
def assembled(models, tmp_path_factory):
    """Put exported stages together into a model's folder, by their names."""
    folder = tmp_path_factory.mktemp("models")

    def assemble(*names: str) -> Path:
        path = folder / "-".join(names)
        if not path.exists():
            MakeAVideo.assemble({name: models / name for name in names}, path)
        return path

    return assemble


@pytest.fixture(scope="session")
def stage(models):
    """Load an exported stage by name; `fresh` is none that another test has changed."""
    loaded: dict[str, StageNetwork] = {}

    def load(name: str, *, fresh: bool = False) -> StageNetwork:
        if name not in loaded:
            kind = name.removeprefix("prior-")
            loaded[name] = StageNetwork.load(models / name / kind).eval().requires_grad_(False)
        return copy.deepcopy(loaded[name]) if fresh else loaded[name]

    return load
