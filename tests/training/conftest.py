"""Tiny recipes of all tasks, and the tiny trained parts that later ones build on."""

from pathlib import Path

import pytest
import yaml
from diffusers import AutoencoderKL

from latent_shift.training.recipe import load_recipe
from latent_shift.training.task import build_task
from tiny import tiny_scheduler

OPTIMIZER = {"learning_rate": 0.003, "warmup_steps": 0}
BASICS = {"steps": 6, "batch_size": 2, "mixed_precision": "fp32", "log_every": 1, "optimizer": OPTIMIZER}
AUTOENCODER = {
    "sample_size": 64,
    "latent_channels": 4,
    "block_out_channels": [8, 8, 8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
}
UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": [12, 24],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
}
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
CLIP_TOWER = {"image_size": 64, "num_frames": 16, "tubelet_size": [4, 32, 32], **TOWER}
KEPT = (
    "beta_schedule",
    "prediction_type",
    "rescale_betas_zero_snr",
    "timestep_spacing",
    "clip_sample",
    "steps_offset",
)


def contents(folder, parts=None):
    """Recipes as their YAML would be read, by task; `parts` is the folder of the tiny trained parts."""
    stored = {"folder": str(folder / "latents"), "source": {"format": "moving-shapes", "seed": 3, "clips": 4}}
    scheduler = {key: tiny_scheduler().config[key] for key in KEPT}
    return {
        "text_contrastive": {
            **BASICS,
            "task": "text_contrastive",
            "output": str(folder / "wording"),
            "source": {"format": "moving-shapes", "clips": 50},
            "text_encoder": {**TOWER, "max_position_embeddings": 40},
        },
        "video_text_contrastive": {
            **BASICS,
            "task": "video_text_contrastive",
            "output": str(folder / "contrast"),
            "source": {"format": "moving-shapes", "clips": 50},
            "text_encoder_from": str(parts),
            "video_encoder": CLIP_TOWER,
            "hard_negatives": 2,
        },
        "autoencoder": {
            **BASICS,
            "task": "autoencoder",
            "output": str(folder / "autoencoder"),
            "source": {"format": "moving-shapes", "levels": [1, 2]},
            "autoencoder": AUTOENCODER,
            "crop": 16,
        },
        "image": {
            **BASICS,
            "task": "image",
            "output": str(folder / "image"),
            "text_encoder_from": str(parts),
            "autoencoder": str(parts),
            "latents": stored,
            "unet": UNET,
            "scheduler": scheduler,
            "sampling": {"guidance_scale": 2.0, "num_inference_steps": 2},
        },
        "video": {
            **BASICS,
            "task": "video",
            "output": str(folder / "video"),
            "pretrained_model": str(parts and parts / "image-model"),
            "latents": stored,
            "sampling": {"guidance_scale": 2.0, "num_inference_steps": 2},
            "diffusion": {"shared_noise_ratio": 0.5},
            "image_batch_ratio": 0.3,
        },
        "distillation": {
            **BASICS,
            "task": "distillation",
            "output": str(folder / "distillation"),
            "pretrained_model": str(parts and parts / "video-model"),
            "trajectories": {
                "folder": str(folder / "trajectories"),
                "source": {"format": "moving-shapes", "seed": 3, "clips": 4},
                "num_inference_steps": 4,
            },
            "num_inference_steps": 2,
        },
    }


def written(folder: Path, content: dict) -> Path:
    """The recipe as a file."""
    path = folder / f"{content['task']}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """A folder with text_encoder/, tokenizer/, vae/ and two models: tiny, real, untrained."""
    folder = tmp_path_factory.mktemp("parts")
    recipes = contents(folder, folder)
    build_task(load_recipe(written(folder, recipes["text_contrastive"]))).export(folder)
    AutoencoderKL(**AUTOENCODER).save_pretrained(folder / "vae")
    build_task(load_recipe(written(folder, recipes["image"]))).export(folder / "image-model")
    build_task(load_recipe(written(folder, recipes["video"]))).export(folder / "video-model")
    return folder


@pytest.fixture
def recipe_file(tmp_path, parts):
    """Write the tiny recipe of a task, with changes laid over its keys; gives its path."""

    def write(task, **changes):
        return written(tmp_path, {**contents(tmp_path, parts)[task], **changes})

    return write


@pytest.fixture
def with_images(tmp_path):
    """Keys of the tiny recipe `video` with twice as many images from a source of their own."""
    stored = contents(tmp_path, tmp_path)["video"]["latents"]
    images = {"folder": str(tmp_path / "images"), "source": {**stored["source"], "seed": 8}}
    return {
        "latents": {**stored, "images": images}, "image_batch_ratio": 0.5,
        "image_batch_size": 2 * BASICS["batch_size"],
    }  # fmt: skip


@pytest.fixture
def recipe(recipe_file):
    """Read the tiny recipe of a task, with changes laid over its keys."""
    return lambda task, **changes: load_recipe(recipe_file(task, **changes))
