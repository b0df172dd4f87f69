"""The task image: text-to-image, a new U-Net over a trained text encoder and autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from diffusers import DDIMScheduler, UNet2DConditionModel
from pydantic import Field, model_validator

from latent_shift.pipeline import LatentShiftPipeline
from latent_shift.training.datasets import refuse_keys
from latent_shift.training.model_setup import (
    LOG_SNR_SHIFT,
    check_clip_size,
    check_same_network,
    check_unet_fits,
    load_autoencoder,
    load_unet,
    noise_scheduler,
)
from latent_shift.training.recipe import Holds, known_to, making_network
from latent_shift.training.tasks.denoising import DenoisingTask
from latent_shift.training.tasks.denoising_recipe import DenoisingRecipe
from latent_shift.training.text_encoder import load_text_encoder

SchedulerConfig = Annotated[dict[str, Any], known_to(DDIMScheduler, more=LOG_SNR_SHIFT)]


class ImageRecipe(DenoisingRecipe):
    """Text-to-image: a new U-Net on single frames."""

    single_frames = True

    task: Literal["image"]
    text_encoder_from: Annotated[Path, Holds(("text_encoder", "tokenizer"))]
    autoencoder: Annotated[Path, Holds(("vae",))]
    unet: Annotated[dict[str, Any], known_to(UNet2DConditionModel)]
    scheduler: SchedulerConfig = Field(description=f"{LOG_SNR_SHIFT} in place of betas: a shifted cosine")

    @model_validator(mode="after")
    def _images_have_no_rate(self) -> ImageRecipe:
        if self.clips is not None:
            refuse_keys(self.clips, "single frames", ("append_fps_to_caption",))
        return self


class ImageTask(DenoisingTask):
    """The denoising loss of a new U-Net, or that of `init_from`, on images."""

    Config = ImageRecipe
    summary = "a text-to-image model"

    def __init__(self, recipe: ImageRecipe) -> None:
        super().__init__(recipe, image_pipeline(recipe))


def image_pipeline(recipe: ImageRecipe) -> LatentShiftPipeline:
    """Build the pipeline of a recipe. Raises ValueError where its parts do not fit."""
    tokenizer, text_encoder = load_text_encoder(recipe.text_encoder_from)
    vae = load_autoencoder(recipe.autoencoder)
    new = recipe.init_from is None
    if recipe.init_from is None:
        with making_network("unet"):
            unet = UNet2DConditionModel(**recipe.unet)
    else:
        unet = load_unet(recipe.init_from)
        check_same_network(unet, recipe.unet, "unet", recipe.init_from)
    model = LatentShiftPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet,
        scheduler=noise_scheduler(recipe.scheduler),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    if recipe.clips is not None:
        check_clip_size(recipe.clips.frames, model.vae_scale_factor)
        seen = recipe.clips.frames
        side = seen.height if seen.buckets is None else seen.buckets.middle[0]
    else:
        assert recipe.latents is not None  # the recipe has latents or clips
        side = recipe.latents.source.shape.height
    check_unet_fits(model, "unet" if new else "init_from", side if new else None)
    return model
