"""Training of super-resolution: stills, and clips begun with them.

`make_a_video_image_sr` trains a new U-Net without text on stills; with `stage: high_sr` it is the last stage
of the cascade, which makes frame by frame from the same noise and is never trained on clips.
`make_a_video_video_sr` begins with the former: temporal layers are added, and all is trained on clips.

The U-Net reads the smaller frame, bilinearly enlarged, beside the noisy one. Gaussian noise of a drawn level
lies on the smaller frame, and the level is the U-Net's class label, so that frames made by the stage before
serve as well as real ones (arXiv 2106.15282).

Shapes: B clips, F frames, S x S pixels, s x s of the smaller frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from diffusers import UNet2DModel
from pydantic import Field, model_validator

from latent_shift.systems.make_a_video.cascade import clip_noise, stage_generators, upscale
from latent_shift.systems.make_a_video.data import resize
from latent_shift.systems.make_a_video.stage import (
    Context,
    StageConfig,
    StageNetwork,
    load_unet,
    read_stage_config,
)
from latent_shift.systems.make_a_video.task import ClipRecipe, PixelBatch, PixelRecipe, PixelTask, write_sheet
from latent_shift.training.model_setup import noise_scheduler
from latent_shift.training.recipe import Count, Holds, Ratio, Strict, known_to

_FROM_PATCH = ("in_channels", "out_channels", "class_embed_type")


class SuperResolutionSampling(Strict):
    """Settings of sampling, written into the model."""

    num_inference_steps: Count = 10
    eta: Ratio = 0.0
    noise_level: Ratio = Field(0.1, description="of the noise on the smaller frames")


class SuperResolutionTask(PixelTask):
    """The loss of a stage that reads smaller frames."""

    recipe: Any

    def context(self, batch: PixelBatch) -> Context:
        """Smaller frames with noise, enlarged, and its level."""
        small, generators = self.stage.config.low_size, batch.generators
        assert small is not None
        low = resize(batch.pixels, small, "area")
        drawn = [torch.rand((), generator=one, device=one.device) for one in generators]
        level = self.recipe.max_noise_level * torch.stack(drawn).to(low)
        noisy = low + level.view(-1, 1, 1, 1, 1) * clip_noise(low.shape[1:], generators).to(low)
        return Context(label=level, channels=resize(noisy, self.stage.config.size, "bilinear"))

    @torch.no_grad()
    def samples(self, folder: Path, step: int) -> None:
        """Write a sheet of smaller clips, enlarged, above what the stage makes of them and the real ones."""
        config, (_, real) = self.stage.config, self.shown()
        assert config.low_size is not None
        low = resize(real, config.low_size, "area")
        generators = stage_generators(range(len(real)), config.stage)
        made = upscale(self.stage, low, generators, (config.size, config.size))
        rows = [resize(low, config.size, "bilinear"), made, real]
        write_sheet(folder, step, torch.stack(rows, dim=1).flatten(0, 1))


class ImageSuperResolutionRecipe(PixelRecipe):
    """SR_l and SR_h: larger stills from smaller ones, a new U-Net on pixels, without text."""

    single_frames = True

    task: Literal["make_a_video_image_sr"]
    stage: Literal["image_sr", "high_sr"] = Field(
        "image_sr", description="high_sr: the last of the cascade, for frames one by one"
    )
    size: Count = Field(description="height and width of its stills in pixels")
    low_size: Count = Field(description="those of the smaller ones, a divisor of size")
    patch: Count = Field(1, description="side of the patches that become channels before the U-Net, pixels")
    unet: Annotated[dict[str, Any], known_to(UNet2DModel, *_FROM_PATCH)] = Field(
        description="diffusers UNet2DModel; its channels follow from the patch"
    )
    max_noise_level: Ratio = Field(0.3, description="largest level of the noise on the smaller stills")
    sampling: SuperResolutionSampling = SuperResolutionSampling()

    @model_validator(mode="after")
    def _sizes_fit(self) -> ImageSuperResolutionRecipe:
        if self.size % self.low_size or self.size == self.low_size:
            raise ValueError(f"size {self.size} must be a multiple of low_size {self.low_size}, and larger")
        multiple = self.patch * 2 ** (len(self.unet.get("block_out_channels", (0,) * 4)) - 1)
        if self.size % multiple:
            raise ValueError(
                f"size {self.size} must be a multiple of {multiple}, patch times the U-Net's scale"
            )
        return self


class ImageSuperResolutionTask(SuperResolutionTask):
    """SR_l, or SR_h: the denoising loss of a new U-Net on stills."""

    Config = ImageSuperResolutionRecipe
    summary = "Make-A-Video's super-resolution of stills (arXiv 2209.14792)"
    pipeline_tag = "image-to-image"

    def __init__(self, recipe: ImageSuperResolutionRecipe) -> None:
        channels = 3 * recipe.patch**2
        unet = UNet2DModel(
            **recipe.unet, in_channels=2 * channels, out_channels=channels, class_embed_type="timestep"
        )
        config = StageConfig(
            stage=recipe.stage, size=recipe.size, low_size=recipe.low_size, patch=recipe.patch,
            **recipe.sampling.model_dump(),
        )  # fmt: skip
        super().__init__(recipe, StageNetwork(unet, noise_scheduler(recipe.scheduler), config))


class VideoSuperResolutionRecipe(ClipRecipe):
    """SR_l^t: larger clips from smaller ones, begun with the stage on stills."""

    task: Literal["make_a_video_video_sr"]
    init_from: Annotated[Path, Holds(("image_sr",))] = Field(description="model with image_sr/")
    max_noise_level: Ratio = Field(0.3, description="largest level of the noise on the smaller frames")
    sampling: SuperResolutionSampling = SuperResolutionSampling()


class VideoSuperResolutionTask(SuperResolutionTask):
    """SR_l^t: all of SR_l and its temporal layers on clips."""

    Config = VideoSuperResolutionRecipe
    summary = "Make-A-Video's super-resolution of clips (arXiv 2209.14792)"

    def __init__(self, recipe: VideoSuperResolutionRecipe) -> None:
        folder = recipe.init_from / "image_sr"
        config = read_stage_config(folder).changed(
            stage="video_sr", temporal_head_width=recipe.temporal_head_width,
            **recipe.clip_shape(), **recipe.sampling.model_dump(),
        )  # fmt: skip
        scheduler = noise_scheduler(recipe.scheduler)
        super().__init__(recipe, StageNetwork(load_unet(folder / "unet"), scheduler, config))
