"""The denoising loss of a stage on pixels: the part that all stages but the prior share.

Stills or clips are noised, and the stage's U-Net predicts what its scheduler's configuration says (velocity),
under conditions that each task adds. In a ratio of the batches of clips their frames count as single images,
so that this ability stays. `system.MakeAVideo.assemble` puts the exported stages together.

Shapes: B clips, F frames, S x S pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from pydantic import Field, model_validator
from torch import Generator, Tensor
from torch.utils.data import Dataset, default_collate

from latent_shift.autoencoder import to_uint8
from latent_shift.data.sources import AnyGeneratedSource
from latent_shift.data.video_dataset import DEFAULT_FPS, VideoDataset
from latent_shift.io import write_json
from latent_shift.media import contact_sheet, write_image
from latent_shift.noise import draw_noise
from latent_shift.rng import StepRNG
from latent_shift.systems.base import SYSTEM_FILE
from latent_shift.systems.make_a_video.data import GeneratedClips, to_pixels
from latent_shift.systems.make_a_video.stage import Context, StageNetwork
from latent_shift.training.datasets import Clips, data_summary, refuse_keys
from latent_shift.training.logging import Report
from latent_shift.training.model_setup import AttentionByLength
from latent_shift.training.prediction import prediction_target
from latent_shift.training.recipe import Count, Ratio, Recipe, exactly_one
from latent_shift.training.task import Task
from latent_shift.training.tasks.image import SchedulerConfig

SYSTEM = "make_a_video"
_SHOWN = 4  # clips, or stills, on a sheet of samples


class PixelRecipe(Recipe):
    """The keys of all stages but the prior."""

    single_frames: ClassVar[bool]  # whether the stage is trained on stills only

    source: AnyGeneratedSource | None = Field(None, description="clips of a generated source; or clips")
    clips: Clips | None = Field(None, description="clips of your own, square ones; or source")
    scheduler: SchedulerConfig = Field(
        description="diffusers DDIMScheduler; log_snr_shift in place of its betas"
    )
    gradient_checkpointing: bool = Field(False, description="less memory, about a third slower")

    @property
    def image_ratio(self) -> float:
        """Ratio of the batches that train on single frames."""
        return 1.0

    def check(self) -> None:
        """See `Recipe.check`."""
        super().check()
        if self.clips is not None:
            self.clips.check(self.output, single_frames=self.single_frames)

    def data_summary(self) -> list[str]:
        """See `Recipe.data_summary`."""
        return data_summary(self.source, self.clips)

    def untrained_words(self) -> tuple[str, ...]:
        """Words of the vocabulary that no caption has."""
        return () if self.source is None else self.source.untrained_words()

    def check_size(self, size: int) -> None:
        """Raise ValueError where the frames of the data are smaller than a stage's, or not square."""
        if self.source is not None:
            height, width = self.source.shape.height, self.source.shape.width
        else:
            assert self.clips is not None  # the recipe has one of the two
            height, width = self.clips.frames.height, self.clips.frames.width
        if height != width or height < size:
            raise ValueError(
                f"the frames of the data have {height}x{width} pixels; this stage needs square ones of {size}"
                " or more"
            )

    @model_validator(mode="after")
    def _one_kind_of_data(self) -> PixelRecipe:
        exactly_one(self, "source", "clips")
        if self.clips is not None:
            unfit = ("frames.buckets", "precomputed_latents", "append_fps_to_caption", "images")
            refuse_keys(self.clips, "stages on pixels", unfit)
        return self


class ClipRecipe(PixelRecipe):
    """The keys of the stages on clips."""

    single_frames = False

    frame_stride: Count = Field(1, description="only each n-th frame of a source's clips")
    image_batch_ratio: Ratio = Field(0.1, description="ratio of the batches that train on single frames")
    temporal_head_width: Count = Field(32, description="channels of a head of the temporal attention")

    @property
    def image_ratio(self) -> float:
        """See `PixelRecipe.image_ratio`."""
        return self.image_batch_ratio

    def clip_shape(self) -> dict[str, Any]:
        """Frames of the clips, and frames a second."""
        if self.source is not None:
            shape = self.source.shape
            frames = len(range(0, shape.num_frames, self.frame_stride))
            return {"frames": frames, "fps": shape.fps / self.frame_stride}
        assert self.clips is not None  # the recipe has one of the two
        return {"frames": self.clips.frames.num_frames, "fps": self.clips.frames.fps or DEFAULT_FPS}

    @model_validator(mode="after")
    def _stride_is_of_a_source(self) -> ClipRecipe:
        if self.clips is not None and self.frame_stride > 1:
            raise ValueError("frame_stride: only for source; clips have clips.frames.stride")
        return self


@dataclass(frozen=True)
class PixelBatch:
    """A batch of the dataset and its random numbers.

    items: of the dataset, collated. pixels: their frames (B, F, 3, S, S). uniforms (B,): a number from 0 to 1
    for each clip. generators: one a clip, for all else that is drawn. as_images: whether every frame counts
    as an image.
    """

    items: dict[str, Any]
    pixels: Tensor
    uniforms: Tensor
    generators: list[Generator]
    as_images: bool


class PixelTask(Task):
    """From frames uint8 (B, F, H, W, 3) to the denoising loss of a stage."""

    recipe: PixelRecipe
    alphas: Tensor  # of each timestep, cumulated
    pipeline_tag = "text-to-video"
    usage = ("```sh", 'latent-shift generate "..." --model THIS-FOLDER', "```")

    def __init__(self, recipe: PixelRecipe, stage: StageNetwork) -> None:
        super().__init__(recipe)
        recipe.check_size(stage.config.size)
        self.stage = stage.train()  # a loaded U-Net is in evaluation mode, where some kernels round otherwise
        self.register_buffer("alphas", stage.scheduler.alphas_cumprod.clone(), persistent=False)
        _use_fast_attention(stage.unet)
        if recipe.gradient_checkpointing:
            stage.unet.enable_gradient_checkpointing()
        if recipe.compile:
            stage.unet.compile(dynamic=False)

    def dataset(self, report: Report) -> Dataset[dict[str, Any]]:
        """Stills or clips; of a source rendered item by item."""
        return self._items(validation=False)

    def validation(self, report: Report) -> Dataset[dict[str, Any]] | None:
        """Items that `dataset` does not have."""
        return None if self.recipe.validation is None else self._items(validation=True)

    def _items(self, *, validation: bool) -> Dataset[dict[str, Any]]:
        recipe = self.recipe
        count = 0 if recipe.validation is None else recipe.validation.items
        if recipe.clips is not None:
            changes = {"num_frames": 1} if recipe.single_frames else {}
            frames, manifest = recipe.clips.frames.model_copy(update=changes), recipe.clips.manifest
            manifest = manifest.of_kind("clip")
            if count:
                manifest = manifest.split(count, recipe.seed)[validation]
            return VideoDataset(manifest, frames, seed=recipe.seed, bad_log=recipe.output / "bad-clips.jsonl")
        assert recipe.source is not None  # the recipe has one of the two
        if recipe.single_frames:
            return (recipe.source.other_series(count) if validation else recipe.source).dataset(images=True)
        return self._generated_clips(count if validation else 0)

    def _generated_clips(self, held_out: int) -> GeneratedClips:
        """Clips of the source; or so many held-out ones that come after them."""
        source, first = self.recipe.source, 0
        assert source is not None
        assert isinstance(self.recipe, ClipRecipe)
        if held_out:
            source, first = source.extended(held_out), source.clips
        return GeneratedClips(source, self.recipe.frame_stride, first=first)

    def forward(self, batch: dict[str, Any], rng: StepRNG) -> dict[str, Tensor]:
        """The loss of a batch, a scalar; `rng` decides timesteps, noise and the draws of the conditions."""
        pixels = to_pixels(batch["frames"], self.stage.config.size)
        frames = pixels.shape[1]
        start, chance = torch.rand(2, generator=rng.step_generator()).tolist()
        as_images = frames == 1 or (self.training and chance < self.recipe.image_ratio)
        generators = rng.item_generators(pixels.device)
        noise = draw_noise(tuple(pixels.shape), generators).view_as(pixels)
        context = self.context(PixelBatch(batch, pixels, rng.uniforms(), generators, as_images))
        times = rng.stratified_uniforms(start, frames if as_images else 1)  # (B, F or 1)
        timesteps = (times.flatten() * len(self.alphas)).long().to(pixels.device)
        if as_images:
            pixels, noise = (one.flatten(0, 1)[:, None] for one in (pixels, noise))  # (B*F, 1, 3, S, S)
            context = context.as_images(frames)
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1, 1)
        noisy = alpha.sqrt() * pixels + (1 - alpha).sqrt() * noise
        target = prediction_target(self.stage.scheduler.config.prediction_type, pixels, noise, alpha)
        loss = (self.stage(noisy, timesteps, context) - target).square().mean()
        if as_images:
            # Images skip the temporal layers; several processes (DDP) wait for every gradient: a zero.
            loss = loss + 0 * sum(one.sum() for one in self.stage.temporal_parameters())
        return {"loss": loss, "image_loss" if as_images else "clip_loss": loss.detach()}

    def context(self, batch: PixelBatch) -> Context:
        """Conditions of the clips of a batch."""
        raise NotImplementedError

    def shown(self) -> tuple[dict[str, Any], Tensor]:
        """A few items of the dataset for samples, collated, and their frames (B, F, 3, S, S)."""
        data = self._items(validation=False)
        items = default_collate([data[index] for index in range(_SHOWN)])
        frames = items["frames"].to(next(self.stage.parameters()).device)
        return items, to_pixels(frames, self.stage.config.size)

    def export(self, folder: Path) -> None:
        """Write the folder of this stage into a model's folder."""
        self.stage.save(folder / self.stage.config.stage)
        write_json(folder / SYSTEM_FILE, {"system": SYSTEM})


def write_sheet(folder: Path, step: int, clips: Tensor) -> None:
    """Write a sheet of clips (B, F, 3, S, S) named by the step, a line each; eight stills a line."""
    frames = to_uint8(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]).cpu().numpy()
    stills = frames.shape[1] == 1
    sheet = contact_sheet([frames[:, 0]], columns=8) if stills else contact_sheet(list(frames))
    write_image(folder / f"step-{step:08d}.png", sheet, overwrite=True)


def _use_fast_attention(unet: Any) -> None:
    """On a CPU choose the form of a spatial attention by its length, where it is diffusers' usual one."""
    processors = getattr(unet, "attn_processors", {}).values()
    usual = bool(processors) and all(type(one) is AttnProcessor2_0 for one in processors)
    if usual and not torch.cuda.is_available():
        unet.set_attn_processor(AttentionByLength())
