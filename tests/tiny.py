"""A whole text-to-image model in the Stable Diffusion layout, tiny and random, made of the real classes.

    folder = tiny_pipeline_folder(tmp_path / "model")                       # video-tuned, it says
    folder = tiny_pipeline_folder(tmp_path / "model", latent_shift=False)   # an image model
    unet = tiny_unet()                                                      # its U-Net alone

Images of 32 x 32 pixels, latents of 4 x 8 x 8 (C, h, w), text of 12 tokens of width 16.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WORDS = ("a", "black", "circle", "green", "grows", "left", "moves", "on", "red", "right", "square", "to")
TEXT_LENGTH = 12
TEXT_WIDTH = 16

# The `latent_shift.json` of a video-tuned tiny model.
VIDEO_CONFIG: dict[str, Any] = {
    "video_tuned": True,
    "num_frames": 4,
    "fps": 8.0,
    "height": 32,
    "width": 32,
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
}


def tiny_unet(seed: int = 0, **changes: Any) -> UNet2DConditionModel:
    """A U-Net of two levels; with one layer a block it has 8 ResNet blocks: 2 down, 2 in the middle, 4 up."""
    torch.manual_seed(seed)
    config: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": (12, 24),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 4,
    }
    return UNet2DConditionModel(**{**config, **changes}).eval()


def tiny_autoencoder(seed: int = 1) -> AutoencoderKL:
    """An autoencoder between 32 x 32 pixels and latents of 4 x 8 x 8."""
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.5,
    ).eval()


def tiny_tokenizer() -> CLIPTokenizer:
    """A tokenizer in CLIP's format with a closed vocabulary: each of WORDS is one token."""
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        *letters, last = word
        pieces = [*letters, f"{last}</w>"]
        while len(pieces) > 1:
            merges[pieces[0], pieces[1]] = None
            pieces[:2] = [pieces[0] + pieces[1]]
    letters = sorted(set("".join(WORDS)))
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    numbers = {piece: number for number, piece in enumerate(dict.fromkeys(vocabulary))}
    return CLIPTokenizer(vocab=numbers, merges=list(merges), model_max_length=TEXT_LENGTH)


def open_tokenizer(length: int = 64) -> CLIPTokenizer:
    """A tokenizer that spells every text, byte by byte."""
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)


def open_components() -> dict[str, Any]:
    """`tiny_components` with a text model of open vocabulary."""
    tokenizer = open_tokenizer()
    torch.manual_seed(2)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    text_encoder = CLIPTextModel(config).eval()
    return {**tiny_components(), "tokenizer": tokenizer, "text_encoder": text_encoder}


def tiny_text_encoder(tokenizer: CLIPTokenizer, seed: int = 2) -> CLIPTextModel:
    """A text model of one layer for that tokenizer."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval()


def tiny_scheduler() -> DDIMScheduler:
    """The default model's scheduler: v-prediction, zero terminal SNR, trailing timesteps."""
    return DDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def tiny_components() -> dict[str, Any]:
    """All parts of a tiny pipeline, as its constructor takes them."""
    tokenizer = tiny_tokenizer()
    return {
        "vae": tiny_autoencoder(),
        "text_encoder": tiny_text_encoder(tokenizer),
        "tokenizer": tokenizer,
        "unet": tiny_unet(),
        "scheduler": tiny_scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def tiny_pipeline_folder(
    path: Path, *, latent_shift: bool = True, half: bool = False, **settings: Any
) -> Path:
    """Save the tiny model to `path` by stock tools alone, and beside it the settings of a video-tuned one."""
    pipeline = StableDiffusionPipeline(**tiny_components())
    pipeline.to(torch.float16 if half else torch.float32)
    pipeline.save_pretrained(path)
    if latent_shift:
        (path / "latent_shift.json").write_text(json.dumps({**VIDEO_CONFIG, **settings}))
    return path
