"""A whole text-to-image model in SDXL's layout, tiny and random, made of the real classes.

    folder = tiny_xl_folder(tmp_path / "model")   # an image model, for images of 32 x 32 pixels

Two text models of widths 16 and 24, the second with a pooled output of width 8.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tiny import TEXT_LENGTH, VIDEO_CONFIG, tiny_autoencoder, tiny_tokenizer, tiny_unet

WIDTHS = (16, 24)
POOLED = 8
TIME_WIDTH = 4  # of each of the six size conditions


def tiny_xl_unet(text_width: int = sum(WIDTHS), **changes: Any) -> UNet2DConditionModel:
    """The tiny U-Net with SDXL's added conditions."""
    added = {
        "cross_attention_dim": text_width,
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_WIDTH,
        "projection_class_embeddings_input_dim": 6 * TIME_WIDTH + POOLED,
    }
    return tiny_unet(**{**added, **changes})


def text_config(tokens: int, width: int, **more: Any) -> CLIPTextConfig:
    """The config of a text model of two layers."""
    return CLIPTextConfig(
        vocab_size=tokens, hidden_size=width, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH, bos_token_id=tokens - 2, eos_token_id=tokens - 1, **more,
    )  # fmt: skip


def padded_tokenizer(padding: str) -> CLIPTokenizer:
    """The tiny tokenizer with the padding of the published text models: the second one's is "!"."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "!"})
    tokenizer.pad_token = padding
    return tokenizer


def tiny_xl_components(widths: tuple[int, int] = WIDTHS, pooled: int = POOLED) -> dict[str, Any]:
    """All parts of a tiny SDXL pipeline, as its constructor takes them."""
    first, second = padded_tokenizer("<|endoftext|>"), padded_tokenizer("!")
    torch.manual_seed(3)
    return {
        "vae": tiny_autoencoder(),
        "text_encoder": CLIPTextModel(text_config(len(first), widths[0])).eval(),
        "text_encoder_2": CLIPTextModelWithProjection(
            text_config(len(first), widths[1], projection_dim=pooled)
        ).eval(),
        "tokenizer": first,
        "tokenizer_2": second,
        "unet": tiny_xl_unet(sum(widths), projection_class_embeddings_input_dim=6 * TIME_WIDTH + pooled),
        "scheduler": EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1),
    }


def tiny_xl_folder(path: Path, *, latent_shift: bool = True, **settings: Any) -> Path:
    """Save the tiny SDXL model to `path` by stock tools alone, and beside it the settings of a tuned one."""
    StableDiffusionXLPipeline(**tiny_xl_components(), add_watermarker=False).save_pretrained(path)
    if latent_shift:
        (path / "latent_shift.json").write_text(json.dumps({**VIDEO_CONFIG, **settings}))
    return path
