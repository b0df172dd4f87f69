"""Training of the stages that read text: stills, clips, and interpolation of key frames.

`make_a_video_image` trains a new U-Net on stills. `make_a_video_video` begins with it: temporal layers and
the embedding of the frame rate are added, and all is trained on clips. `make_a_video_interpolation` begins
with that one: it reads known frames and a mask beside the noisy frames (arXiv 2209.14792, section 3.3).

Shapes: B clips, F frames, S x S pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from diffusers import UNet2DConditionModel
from pydantic import Field, model_validator
from torch import Generator, Tensor

from latent_shift.conditioning import Conditioning, caption_embeds
from latent_shift.data.video_dataset import DEFAULT_FPS
from latent_shift.systems.make_a_video.cascade import (
    Cascade,
    ClipShape,
    Known,
    denoise,
    stage_generators,
    text_conditioning,
)
from latent_shift.systems.make_a_video.data import GeneratedClips
from latent_shift.systems.make_a_video.stage import (
    Context,
    StageConfig,
    StageNetwork,
    add_fps_embedding,
    add_input_channels,
    load_unet,
    read_stage_config,
)
from latent_shift.systems.make_a_video.task import ClipRecipe, PixelBatch, PixelRecipe, PixelTask, write_sheet
from latent_shift.systems.make_a_video.text import StillEncoder, TextModel
from latent_shift.training.model_setup import noise_scheduler
from latent_shift.training.recipe import Count, Holds, Ratio, known_to
from latent_shift.training.tasks.denoising_recipe import Sampling
from latent_shift.training.text_encoder import trained_words

KNOWN_CHANNELS = 4  # a frame's colours and whether it is known
_KNOWN_STRIDES = (2, 3, 5)  # of key frames in training; the paper's is 5
# Limits of a uniform number: every n-th frame is known, the first one, the first and the last one, none.
_REGULAR, _FIRST, _ENDS = 0.7, 0.8, 0.9
Dropout = Annotated[Ratio, Field(description="captions replaced by the empty one, for guidance")]
VideoEncoder = Annotated[
    Path | None,
    Holds(("clip_tower",)),
    Field(description="folder with clip_tower/, for text_conditioning: prior"),
]


class TextTask(PixelTask):
    """The loss of a stage that reads captions, or embeddings of stills."""

    recipe: Any

    def __init__(self, recipe: PixelRecipe, stage: StageNetwork, text: TextModel) -> None:
        super().__init__(recipe, stage)
        self.text, self.text_encoder = text, text.text_encoder
        folder = self.recipe.video_encoder_from
        if (stage.config.text == "prior") != (folder is not None):
            raise ValueError(
                "video_encoder_from: stages that read embeddings of stills need it, and no others"
            )
        self.still_encoder = None if folder is None else StillEncoder(folder)

    def context(self, batch: PixelBatch) -> Context:
        """Text, and the frame rate, 0 for images."""
        label = torch.zeros(len(batch.pixels), device=batch.pixels.device)
        if "fps" in batch.items and not batch.as_images:
            label = batch.items["fps"].to(label)
        ratio = self.recipe.caption_dropout if self.training else 0.0
        return Context(self._text(batch, batch.uniforms < ratio), label)

    def _text(self, batch: PixelBatch, dropped: Tensor) -> Conditioning:
        """Conditioning of B*F frames; dropped (B,): of which clips the text is left out."""
        items, config, frames = batch.items, self.stage.config, batch.pixels.shape[1]
        if self.still_encoder is None:
            captions = items["caption"]
            if batch.as_images:
                captions, config = (
                    items.get("image_caption", captions),
                    config.changed(frame_position_embedding=False),
                )
            embeds = caption_embeds(self.text, items, captions, dropped.tolist())
            return text_conditioning(embeds, config, frames)
        clips, kept = items["frames"], 1 - dropped.float().to(batch.pixels.device)
        if batch.as_images:  # every frame is made from its own embedding
            stills = self.still_encoder(clips.flatten(0, 1)) * kept.repeat_interleave(frames)[:, None]
            return text_conditioning(stills, config, 1)
        chosen = [int(torch.rand((), generator=one, device=one.device) * frames) for one in batch.generators]
        stills = self.still_encoder(clips[torch.arange(len(clips)), chosen]) * kept[:, None]
        return text_conditioning(stills, config, frames)

    def export(self, folder: Path) -> None:
        """Write the folder of this stage and the text encoder into a model's folder."""
        self.text.save(folder)
        super().export(folder)

    @torch.no_grad()
    def samples(self, folder: Path, step: int) -> None:
        """Write a sheet of clips (or stills) of fixed prompts, of this stage by itself."""
        config, source = self.stage.config, self.recipe.source
        if source is None or config.text == "prior":
            return
        prompts = source.sample_prompts(images=config.frames == 1)
        shape = ClipShape(config.frames, config.fps or DEFAULT_FPS, config.size, config.size)
        cascade = Cascade({config.stage: self.stage}, self.text)
        write_sheet(folder, step, cascade.generate(prompts, [""] * len(prompts), range(len(prompts)), shape))


class ImageStageRecipe(PixelRecipe):
    """D: stills from text, a new U-Net on pixels."""

    single_frames = True

    task: Literal["make_a_video_image"]
    size: Count = Field(description="height and width of the stills in pixels")
    patch: Count = Field(1, description="side of the patches that become channels before the U-Net, pixels")
    text_conditioning: Literal["direct", "prior"] = Field(
        "direct", description="read the text, or the embedding of a still, which the prior makes of text"
    )
    text_encoder_from: Annotated[Path, Holds(("text_encoder", "tokenizer"))] = Field(
        description="folder with text_encoder/ and tokenizer/"
    )
    video_encoder_from: VideoEncoder = None
    unet: Annotated[dict[str, Any], known_to(UNet2DConditionModel, "in_channels", "out_channels")] = Field(
        description="diffusers UNet2DConditionModel; its channels follow from the patch"
    )
    caption_dropout: Dropout = 0.1
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _text_fits_the_unet(self) -> ImageStageRecipe:
        reads_stills = self.unet.get("encoder_hid_dim_type") == "image_proj"
        if reads_stills != (self.text_conditioning == "prior"):
            raise ValueError(
                f"text_conditioning {self.text_conditioning} and unet.encoder_hid_dim_type do not fit:"
                " embeddings of stills take image_proj and addition_embed_type: image, text takes neither"
            )
        return self


class ImageStageTask(TextTask):
    """D: the denoising loss of a new U-Net on stills."""

    Config = ImageStageRecipe
    summary = "Make-A-Video's first stage, stills from text (arXiv 2209.14792)"
    pipeline_tag = "text-to-image"

    def __init__(self, recipe: ImageStageRecipe) -> None:
        text = TextModel.load(recipe.text_encoder_from)
        channels = 3 * recipe.patch**2
        unet = UNet2DConditionModel(**recipe.unet, in_channels=channels, out_channels=channels)
        check_text_width(unet, text, recipe)
        words = () if recipe.source is None else recipe.source.vocabulary()
        config = StageConfig(
            stage="image", size=recipe.size, patch=recipe.patch, text=recipe.text_conditioning,
            closed_vocabulary=trained_words(text.tokenizer, words),
            untrained_words=recipe.untrained_words(), **recipe.sampling.model_dump(),
        )  # fmt: skip
        super().__init__(recipe, StageNetwork(unet, noise_scheduler(recipe.scheduler), config), text)


class TextClipRecipe(ClipRecipe):
    """The keys of the stages on clips that read text."""

    video_encoder_from: VideoEncoder = None
    caption_dropout: Dropout = 0.1
    sampling: Sampling = Sampling()


class VideoStageRecipe(TextClipRecipe):
    """D^t: clips from text, begun with the stage on stills."""

    task: Literal["make_a_video_video"]
    init_from: Annotated[Path, Holds(("image", "text_encoder"))] = Field(description="model with image/")
    fps_curriculum: bool = Field(
        False, description="draw strides from 1 to frame_stride, small ones (little motion) first"
    )
    frame_position_embedding: bool = Field(
        False, description="embed the positions of frames in their text embeddings"
    )

    @model_validator(mode="after")
    def _curriculum_has_strides(self) -> VideoStageRecipe:
        if self.fps_curriculum and self.frame_stride == 1:
            raise ValueError("fps_curriculum draws strides from 1 to frame_stride, which is 1")
        return self


class VideoStageTask(TextTask):
    """D^t: all of D and its temporal layers on clips."""

    Config = VideoStageRecipe
    summary = "Make-A-Video's second stage, small clips from text (arXiv 2209.14792)"

    def __init__(self, recipe: VideoStageRecipe) -> None:
        folder = recipe.init_from / "image"
        unet = load_unet(folder / "unet")
        add_fps_embedding(unet)
        stills = read_stage_config(folder)
        if stills.text == "prior" and recipe.frame_position_embedding:
            raise ValueError(
                "frame_position_embedding: this stage reads embeddings of stills, which have no places; set"
                " it to false"
            )
        config = stills.changed(
            stage="video", temporal_head_width=recipe.temporal_head_width,
            frame_position_embedding=recipe.frame_position_embedding,
            untrained_words=recipe.untrained_words(), **recipe.clip_shape(), **recipe.sampling.model_dump(),
        )  # fmt: skip
        stage = StageNetwork(unet, noise_scheduler(recipe.scheduler), config)
        super().__init__(recipe, stage, TextModel.load(recipe.init_from))

    def _generated_clips(self, held_out: int) -> GeneratedClips:
        clips = super()._generated_clips(held_out)
        if self.recipe.fps_curriculum and not held_out:
            clips.curriculum_steps = self.recipe.steps
        return clips


class InterpolationRecipe(TextClipRecipe):
    """Interpolation of key frames, begun with D^t."""

    task: Literal["make_a_video_interpolation"]
    init_from: Annotated[Path, Holds(("video", "text_encoder"))] = Field(description="model with video/")
    keyframe_stride: Count = Field(3, description="frames from one key frame to the next, in sampling")
    image_batch_ratio: Ratio = Field(0.0, description="a single frame has nothing between its key frames")


class InterpolationTask(TextTask):
    """All frames from some of them: frames that are not known are made, those that are known are seen."""

    Config = InterpolationRecipe
    summary = "Make-A-Video's interpolation of frames (arXiv 2209.14792, section 3.3)"

    def __init__(self, recipe: InterpolationRecipe) -> None:
        stage = StageNetwork.load(recipe.init_from / "video")
        add_input_channels(stage.unet, KNOWN_CHANNELS * stage.config.patch**2)
        stage.scheduler = noise_scheduler(recipe.scheduler)
        stage.config = stage.config.changed(
            stage="interpolation", keyframe_stride=recipe.keyframe_stride,
            **recipe.clip_shape(), **recipe.sampling.model_dump(),
        )  # fmt: skip
        super().__init__(recipe, stage, TextModel.load(recipe.init_from))

    def context(self, batch: PixelBatch) -> Context:
        """Text, frame rate, known frames and mask."""
        context = super().context(batch)
        known = draw_known(batch.pixels.shape[1], batch.generators).to(batch.pixels.device)
        return Context(context.text, context.label, Known(batch.pixels, known).channels())

    @torch.no_grad()
    def samples(self, folder: Path, step: int) -> None:
        """Write a sheet of clips made of the key frames of real ones, each above the real one."""
        items, real = self.shown()
        mask = torch.zeros(real.shape[:2], dtype=torch.bool, device=real.device)
        mask[:, :: self.stage.config.keyframe_stride] = True
        known = Known(real, mask)
        generators = stage_generators(range(len(real)), self.stage.config.stage)
        batch = PixelBatch(items, real, torch.ones(len(real)), generators, as_images=False)
        text = self._text(batch, torch.zeros(len(real), dtype=torch.bool))
        context = Context(text, items["fps"].to(real), known.channels())
        made = denoise(self.stage, real.shape[1:], generators, context, known=known)
        write_sheet(folder, step, torch.stack([made, real], dim=1).flatten(0, 1))


def draw_known(frames: int, generators: Sequence[Generator]) -> Tensor:
    """Draw the known frames of each clip by its generator: bool (B, F), true where known.

    Every 2nd, 3rd or 5th from the first on: 0.7; the first: 0.1; the first and the last: 0.1; none: 0.1.
    """
    known = torch.zeros(len(generators), frames, dtype=torch.bool)
    for clip, generator in zip(known, generators, strict=True):
        kind, stride = torch.rand(2, generator=generator, device=generator.device).tolist()
        if kind < _REGULAR:
            clip[:: _KNOWN_STRIDES[int(stride * len(_KNOWN_STRIDES))]] = True
        elif kind < _ENDS:
            clip[0] = True
            clip[-1] = kind >= _FIRST or frames == 1
    return known


def check_text_width(unet: UNet2DConditionModel, text: TextModel, recipe: ImageStageRecipe) -> None:
    """Raise ValueError where a new U-Net does not fit the text encoder or the size of the stills."""
    width = text.text_encoder.config.hidden_size
    if recipe.text_conditioning == "direct" and unet.config.cross_attention_dim != width:
        raise ValueError(
            f"unet: cross_attention_dim is {unet.config.cross_attention_dim}, but must be {width}: the text"
            " encoder's hidden_size"
        )
    multiple = recipe.patch * 2 ** (len(unet.config.block_out_channels) - 1)
    if recipe.size % multiple:
        raise ValueError(
            f"size {recipe.size} must be a multiple of {multiple}, patch times the U-Net's scale"
        )
