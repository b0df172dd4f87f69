"""What denoising starts from: a recipe's pipeline, its parts read from the folders that the recipe names.

The U-Net is new, or that of `init`; text tower and autoencoder are always read. Parts that do not fit each
other are told at once, by the keys of the recipe, and not by a failing matrix product in the first step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from latent_shift import checkpoints
from latent_shift.data.video_dataset import ClipSettings
from latent_shift.pipeline import LatentShiftPipeline, LatentShiftXLPipeline
from latent_shift.prompts import has_closed_vocabulary
from latent_shift.training.noise_schedule import changed_scheduler, noise_scheduler
from latent_shift.training.recipe import ImageRecipe, Toward, VideoRecipe

AnyPipeline = LatentShiftPipeline | LatentShiftXLPipeline


def image_model(recipe: ImageRecipe) -> LatentShiftPipeline:
    """A pipeline around a new U-Net, or that of `init`. Raises ValueError where the parts do not fit."""
    tokenizer = CLIPTokenizer.from_pretrained(recipe.text / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(recipe.text / "text_encoder", torch_dtype=torch.float32)
    vae = AutoencoderKL.from_pretrained(recipe.autoencoder / "vae", torch_dtype=torch.float32)
    unet = UNet2DConditionModel(**recipe.unet) if recipe.init is None else _unet(recipe.init)
    model = LatentShiftPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet,
        scheduler=noise_scheduler(recipe.scheduler),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    if recipe.clips is not None:
        _check_size(recipe.clips.frames, model.vae_scale_factor)
        side = recipe.clips.frames.height
    else:
        assert recipe.latents is not None  # the recipe has one of the two
        side = recipe.latents.world.shape.height
    _check_fit(model, "unet" if recipe.init is None else "init", side)
    return model


def video_model(recipe: VideoRecipe) -> AnyPipeline:
    """The pipeline of `base`, in either layout, its U-Net exchanged for that of `init` where one is named.

    Its weights are then moved part of the way `toward` another model's, where the recipe says so.

    Raises ValueError for a base that is no model or cannot be trained, and where the parts do not fit.
    """
    options: dict[str, Any] = {"tokenizer": recipe.tokenizer, "prediction_type": recipe.prediction}
    try:
        model = checkpoints.load(recipe.base, device="cpu", dtype="fp32", **options)
    except ValueError as error:
        raise ValueError(f"base: {error}") from error
    if recipe.clips is not None:
        _check_size(recipe.clips.frames, model.vae_scale_factor)
    if recipe.clips is not None and recipe.clips.tell_fps and has_closed_vocabulary(model.tokenizer):
        raise ValueError("clips.tell_fps: this base has a closed vocabulary, which has no numbers")
    if recipe.scheduler:
        model.register_modules(scheduler=changed_scheduler(model.scheduler, recipe.scheduler))
    if recipe.init is not None:
        model.register_modules(unet=_unet(recipe.init))
    if recipe.toward is not None:
        _move(model.unet, recipe.toward)
    _check_fit(model, "base" if recipe.init is None else "init")
    return model


def _check_size(frames: ClipSettings, multiple: int) -> None:
    """Raise ValueError for a size that the autoencoder cannot take."""
    if frames.buckets is not None:
        if frames.buckets.multiple % multiple:
            raise ValueError(
                f"clips.frames.buckets.multiple is {frames.buckets.multiple}; this model takes multiples of"
                f" {multiple}"
            )
        return
    for name in ("height", "width"):
        pixels = getattr(frames, name)
        if pixels % multiple:
            near = pixels // multiple * multiple or multiple
            raise ValueError(
                f"clips.frames.{name} is {pixels}; this model takes multiples of {multiple}, like {near}"
            )


def _unet(folder: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)


@torch.no_grad()
def _move(unet: UNet2DConditionModel, toward: Toward) -> None:
    """Move the weights in a straight line toward another model's (WiSE-FT, arXiv 2109.01903).

    Between a model and its fine-tuning, what each of them knows is often there together.
    Raises ValueError where the two are not of one shape.
    """
    starts, ends = unet.state_dict(), _unet(toward.model).state_dict()
    if _shapes(starts) != _shapes(ends):
        raise ValueError(f"toward.model: the U-Net in {toward.model} has other weights than the first one")
    for name, start in starts.items():
        start.lerp_(ends[name], toward.share)


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def _check_fit(model: AnyPipeline, key: str, side: int = 0) -> None:
    """Raise ValueError where the U-Net, which is that of `key`, does not fit its neighbours.

    side: pixels that a new U-Net is to sample by default.
    """
    unet, vae = model.unet.config, model.vae.config
    texts: list[Any] = [part.config for part in model.text_encoders()]
    wanted = {
        "in_channels": (vae.latent_channels, "the autoencoder's latent_channels"),
        "out_channels": (vae.latent_channels, "the autoencoder's latent_channels"),
        "cross_attention_dim": (sum(text.hidden_size for text in texts), "the text towers' hidden_size"),
    }
    if isinstance(model, LatentShiftXLPipeline):
        sizes = 6 * (unet.addition_time_embed_dim or 0)
        reason = f"{sizes} of the sizes, and the second text tower's projection_dim"
        wanted["projection_class_embeddings_input_dim"] = (sizes + texts[1].projection_dim, reason)
    if key == "unet":  # a given one may do as it likes
        wanted["sample_size"] = (side // model.vae_scale_factor, f"{side} pixels by this autoencoder")
    for name, (value, reason) in wanted.items():
        if unet[name] != value:
            raise ValueError(f"{key}: the U-Net's {name} is {unet[name]}, but must be {value}: {reason}")
