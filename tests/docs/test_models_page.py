"""The commands of docs/models.md, run as they stand there, on tiny models that lie where the page says."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPTextModel

from latent_shift import media
from latent_shift.checkpoints import single_file
from latent_shift.cli import errors
from latent_shift.cli.main import app
from original_layout import write_single_file
from tiny import TEXT_WIDTH, tiny_components, tiny_unet
from tiny_xl import padded_tokenizer, text_config, tiny_xl_folder

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def model(width, folder):
    """A tiny model that reads text of this width, saved as a folder."""
    tokenizer = padded_tokenizer("<|endoftext|>")
    parts = {
        "tokenizer": tokenizer,
        "unet": tiny_unet(cross_attention_dim=width),
        "text_encoder": CLIPTextModel(text_config(len(tokenizer), width)).eval(),
        "scheduler": DDIMScheduler(clip_sample=False),
    }
    pipeline = StableDiffusionPipeline(**{**tiny_components(), **parts})
    pipeline.save_pretrained(folder)
    return pipeline


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with everything that the page names."""
    models = tmp_path / "models"
    model(TEXT_WIDTH, models / "my-sd")
    tiny_xl_folder(models / "my-sdxl")
    for file, layout, width in (("v1-5", "sd-1", 768), ("v2-1", "sd-2", 1024)):
        write_single_file(model(width, tmp_path / "configs" / layout), models / f"{file}.safetensors")
    monkeypatch.setattr(single_file, "CONFIGS", tmp_path / "configs")
    for name in ("style", "line-art"):
        key = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_{}.weight"
        sides = {key.format("A"): torch.ones(1, 24), key.format("B"): torch.ones(24, 1)}
        save_file(sides, tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_every_command_of_the_page_runs(place, capsys):
    commands = [line for block in blocks("sh") for line in block.splitlines() if line]
    assert len(commands) == 7
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "latent-shift"
        capsys.readouterr()
        status = errors.run(app, arguments)
        assert status == 0, (command, capsys.readouterr().err)
    weights = [lora["weight"] for lora in media.read_settings(place / "out/both.mp4")["loras"]]
    assert weights == [0.6, -0.3]


def test_the_python_of_the_page_runs(place):
    (code,) = blocks("python")
    names = {}
    exec(code, names)
    assert type(names["pipeline"]).__name__ == "LatentShiftPipeline"
    assert names["pipeline"].scheduler.config.prediction_type == "v_prediction"
