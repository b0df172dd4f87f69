"""Tiny recipes of all four stages, and a folder in which they were trained one after the other."""

from pathlib import Path

import pytest
import yaml

from latent_shift.training.recipe import load_recipe
from latent_shift.training.task import build_task
from latent_shift.training.trainer import train

TEXT = Path(__file__).parents[3] / "src" / "latent_shift" / "assets" / "moving-shapes"
WORLD = {"format": "moving-shapes", "seed": 3, "clips": 4}
AUTOENCODER = {
    "latent_channels": 4,
    "block_out_channels": [8, 8, 8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
}
TRANSFORMER = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16
}  # fmt: skip
BASICS = {
    "steps": 4,
    "batch_size": 2,
    "mixed_precision": "fp32",
    "log_every": 1,
    "optimizer": {"learning_rate": 0.003, "warmup_steps": 0},
}
STAGES = ("tokenizer", "image", "key_frames", "interpolation")


def contents(folder: Path) -> dict:
    """Recipes as their YAML would be read, by stage; each begins with the one before it in `folder`."""
    tokens = {"folder": str(folder / "tokens"), "source": WORLD}
    own = {
        "tokenizer": {
            "source": WORLD, "autoencoder": AUTOENCODER, "crop": 32, "quantizer": {"codebook_size": 32}
        },
        "image": {
            "text_encoder_from": str(TEXT), "frame_tokenizer": str(folder / "tokenizer" / "model"),
            "tokens": tokens, "transformer": TRANSFORMER,
        },
        "key_frames": {"pretrained_model": str(folder / "image" / "model"), "tokens": tokens},
        "interpolation": {"pretrained_model": str(folder / "key_frames" / "model"), "tokens": tokens},
    }  # fmt: skip
    return {
        stage: {**BASICS, "task": f"cogvideo_{stage}", "output": str(folder / stage), **own[stage]}
        for stage in STAGES
    }


def read(path: Path, content: dict):
    """The recipe that a YAML file of this content gives."""
    path.write_text(yaml.safe_dump(content))
    return load_recipe(path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with the run of each stage, four steps each."""
    folder = tmp_path_factory.mktemp("cogvideo")
    for stage, content in contents(folder).items():
        train(build_task(read(folder / f"{stage}.yaml", content)), lambda progress: None)
    return folder


@pytest.fixture
def recipe(trained, tmp_path):
    """Read the tiny recipe of a stage, with changes laid over its keys; its run is a new one."""

    def make(stage, **changes):
        content = {**contents(trained)[stage], "output": str(tmp_path / stage), **changes}
        return read(tmp_path / f"{stage}.yaml", content)

    return make
