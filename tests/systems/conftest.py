"""Tiny recipes of the systems' stages, on a tiny image model."""

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline

from latent_shift.moving_shapes.dataset import WorldConfig
from latent_shift.training.recipe import load_recipe
from latent_shift.training.text_encoder import new_text_encoder
from tiny import TEXT_WIDTH, tiny_components

LAYERS = {"latent_vdm": {"head_width": 4}, "motion_module": {"heads": 2, "width": 0.5}}
LATENTS = {"source": {"format": "moving-shapes", "seed": 3, "clips": 4}, "frame_stride": 4}  # four frames


@pytest.fixture(scope="session")
def image_model(tmp_path_factory):
    """The folder of a tiny image model that knows the words of Moving Shapes."""
    torch.manual_seed(2)
    shape = {"intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {**shape, "hidden_size": TEXT_WIDTH, "max_position_embeddings": 24}
    tokenizer, text_encoder = new_text_encoder(config, WorldConfig().vocabulary())
    parts = {**tiny_components(), "tokenizer": tokenizer, "text_encoder": text_encoder}
    folder = tmp_path_factory.mktemp("image") / "model"
    StableDiffusionPipeline(**parts).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def latents(tmp_path_factory):
    """The folder of a store of latents, encoded by the first run that needs it."""
    return tmp_path_factory.mktemp("latents") / "store"


@pytest.fixture
def recipe(tmp_path, image_model, latents):
    """Read the tiny recipe of a task on clips, with changes laid over its keys."""

    def read(task, **changes):
        content = {
            "task": task, "output": str(tmp_path / task), "pretrained_model": str(image_model),
            "latents": {"folder": str(latents), **LATENTS}, "steps": 12, "batch_size": 2,
            "mixed_precision": "fp32", "log_every": 1, "ema_decay": 0.0,
            "optimizer": {"learning_rate": 0.003, "warmup_steps": 0},
            "sampling": {"guidance_scale": 2.0, "num_inference_steps": 2},
        }  # fmt: skip
        content |= {"temporal": LAYERS[task]} if task in LAYERS else {}
        path = tmp_path / f"{task}.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}))
        return load_recipe(path)

    return read
