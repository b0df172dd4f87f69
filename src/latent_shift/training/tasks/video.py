"""The task video: the U-Net of an image model, fine-tuned on clips with the temporal shift.

All of the U-Net is trained, parameters by their names, or low-rank layers beside it (peft's). A finished
model has the low-rank layers merged, so that its folder is a stock one; the layers are also written beside
it, as a LoRA file for the pretrained model.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from pydantic import Field, model_validator

from latent_shift import checkpoints
from latent_shift.limits import MAX_FRAMES
from latent_shift.prompts import has_closed_vocabulary
from latent_shift.shift import ShiftOptions
from latent_shift.training.model_setup import (
    AnyPipeline,
    changed_scheduler,
    check_clip_size,
    check_unet_fits,
    interpolate,
    load_unet,
)
from latent_shift.training.optim import MIN_SIDE
from latent_shift.training.recipe import Count, Holds, Ratio, Strict
from latent_shift.training.tasks.denoising import DenoisingTask
from latent_shift.training.tasks.denoising_recipe import DenoisingRecipe, Experimental
from latent_shift.training.tasks.image import SchedulerConfig
from latent_shift.unet import enable_temporal_shift

LORA_FOLDER = "lora"  # in the finished model's
_MAX_LISTED = 12


class Lora(Strict):
    """Low-rank layers beside the U-Net's, trained instead of it (arXiv 2106.09685)."""

    rank: Count = 16
    alpha: float = Field(16.0, gt=0.0, description="the layers' product is scaled by alpha / rank")
    target_modules: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"),
        min_length=1,
        description="ends of the names of the modules that get them; the convolutions see the other frames",
    )


class InterpolateWith(Strict):
    """Another model of the same shape, for weights on the straight line to its own."""

    model: Annotated[Path, Holds(("unet",))] = Field(description="model folder")
    alpha: Ratio = Field(description="part of the way: 0 changes nothing, 1 is that model")


class VideoExperimental(Experimental):
    """Options that were tried on Moving Shapes, with their effect there, for clips only."""

    frame_position_embedding: bool = Field(
        False,
        description="embed the positions of frames in their text embeddings. Did not replace training on"
        " every third frame first; its share in later gains was not separated",
    )
    shift_strides: tuple[Annotated[int, Field(ge=1, le=MAX_FRAMES)], ...] = Field(
        (1,),
        min_length=1,
        description="frames to the neighbours, the blocks taking turns. [3, 1] after training on every third"
        " frame: motion from 46.7 / 51.7 to 63.3 / 57.3 %, seen / held out",
    )
    interpolate_with: InterpolateWith | None = Field(
        None,
        description="start between two models (WiSE-FT, arXiv 2109.01903). Gave back what a stage of one"
        " motion had cost, and costs colours first",
    )


class VideoRecipe(DenoisingRecipe):
    """Text-to-video: the U-Net of an image model, fine-tuned on clips with the temporal shift."""

    single_frames = False

    task: Literal["video"]
    pretrained_model: str = Field(min_length=1, description="a folder, a hub id or a single file")
    tokenizer: Path | None = Field(None, description="for a single file (docs/models.md)")
    prediction_type: Literal["epsilon", "v_prediction"] | None = None  # of a single file of SD 2.x
    scheduler: SchedulerConfig = Field({}, description="changes of the model's noise schedule")
    shift: ShiftOptions | None = Field(ShiftOptions(), description="null: no shift, the ablation")
    image_batch_ratio: Ratio = Field(0.1, description="batches that train on images, to keep that ability")
    image_batch_size: Count | None = Field(
        None, description="images of a batch of a source of their own; by default as many as clips"
    )
    lora: Lora | None = Field(None, description="train only low-rank layers; the model gets them merged")
    trainable_modules: tuple[str, ...] = Field((), description="parts of names, as resnets; none: all")
    gradient_checkpointing: bool = Field(False, description="less memory, about a third slower")
    experimental: VideoExperimental = VideoExperimental()

    @model_validator(mode="after")
    def _strides_are_experimental(self) -> VideoRecipe:
        if self.shift is not None and self.shift.strides != (1,):
            raise ValueError("shift.strides is experimental: set experimental.shift_strides")
        if self.shift is None and self.experimental.shift_strides != (1,):
            raise ValueError(
                "experimental.shift_strides: there is no shift (shift: null); remove one of them"
            )
        return self

    @model_validator(mode="after")
    def _images_are_seen(self) -> VideoRecipe:
        if self.has_own_images and self.image_batch_ratio == 0:
            data = "clips" if self.latents is None else "latents"
            raise ValueError(
                f"{data}.images: with image_batch_ratio 0 no batch has images; change one of them"
            )
        parts = self.gradient_accumulation_steps
        if self.image_batch_size is not None and self.image_batch_size % parts:
            raise ValueError(
                f"image_batch_size {self.image_batch_size} is no multiple of"
                f" gradient_accumulation_steps {parts}"
            )
        if self.image_batch_size is not None and not self.has_own_images:
            raise ValueError(
                f"image_batch_size {self.image_batch_size}: is for images of a source of their own, such as"
                " latents.images, and without one has no effect; remove it"
            )
        return self

    @model_validator(mode="after")
    def _one_way_to_train_less(self) -> VideoRecipe:
        if self.lora is not None and self.trainable_modules:
            raise ValueError("lora and trainable_modules: give one of them, or neither")
        if self.lora is not None and self.optimizer.kind == "muon" and self.lora.rank < MIN_SIDE:
            raise ValueError(
                f"optimizer.kind: muon steps matrices of {MIN_SIDE} rows and columns or more, and lora has"
                f" rank {self.lora.rank}; take adamw"
            )
        return self


class VideoTask(DenoisingTask):
    """The denoising loss on clips, and on images among them."""

    Config = VideoRecipe
    summary = "a text-to-video model: a text-to-image model with the temporal shift (arXiv 2304.08477)"
    pipeline_tag = "text-to-video"
    usage = (
        "```sh", 'latent-shift generate "..." --model THIS-FOLDER -o clip.mp4', "```", "",
        "Stock diffusers opens the folder as well, for images.",
    )  # fmt: skip
    recipe: VideoRecipe

    def __init__(self, recipe: VideoRecipe) -> None:
        super().__init__(recipe, video_pipeline(recipe))
        clips = recipe.clips
        self.image_ratio = 0.0 if recipe.has_own_images else recipe.image_batch_ratio
        self.image_source_ratio, self.image_batch_size = recipe.image_batch_ratio, recipe.image_batch_size
        self.frame_positions = recipe.experimental.frame_position_embedding
        self.append_fps = clips is not None and clips.append_fps_to_caption
        if recipe.shift is not None:
            self.shift = replace(recipe.shift, strides=recipe.experimental.shift_strides)
            enable_temporal_shift(self.unet, 1, self.shift)
        if recipe.lora is not None:
            add_lora(self.unet, recipe.lora)
        elif recipe.trainable_modules:
            train_modules(self.unet, recipe.trainable_modules)
        if recipe.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def export(self, folder: Path) -> None:
        """See `DenoisingTask.export`; low-rank layers are merged, and written into `lora/` as well."""
        if self.recipe.lora is None:
            super().export(folder)
            return
        write_lora(self.unet, folder / LORA_FOLDER)
        merged = deepcopy(self.unet)
        merged.fuse_lora()
        merged.unload_lora()
        self.pipeline.register_modules(unet=merged)
        try:
            super().export(folder)
        finally:
            self.pipeline.register_modules(unet=self.unet)


def video_pipeline(recipe: VideoRecipe) -> AnyPipeline:
    """Build the pipeline of a recipe, in either layout.

    Raises ValueError for a pretrained model that cannot be loaded or trained, and where parts do not fit.
    """
    options: dict[str, Any] = {"tokenizer": recipe.tokenizer, "prediction_type": recipe.prediction_type}
    try:
        model = checkpoints.load(recipe.pretrained_model, device="cpu", dtype="fp32", **options)
    except ValueError as error:
        raise ValueError(f"pretrained_model: {error}") from error
    clips = recipe.clips
    if clips is not None:
        check_clip_size(clips.frames, model.vae_scale_factor)
    if clips is not None and clips.append_fps_to_caption and has_closed_vocabulary(model.tokenizer):
        raise ValueError(
            "clips.append_fps_to_caption: this model has a closed vocabulary, which has no numbers"
        )
    if recipe.scheduler:
        model.register_modules(scheduler=changed_scheduler(model.scheduler, recipe.scheduler))
    if recipe.init_from is not None:
        model.register_modules(unet=load_unet(recipe.init_from))
    if recipe.experimental.interpolate_with is not None:
        other = recipe.experimental.interpolate_with
        interpolate(model.unet, other.model, other.alpha)
    check_unet_fits(model, "pretrained_model" if recipe.init_from is None else "init_from")
    return model


def train_modules(unet: UNet2DConditionModel, parts: Sequence[str]) -> None:
    """Train the parameters that have one of `parts` in their names, and no other.

    Raises ValueError for a part that no name has, with what there is.
    """
    names = [name for name, _ in unet.named_parameters()]
    for part in parts:
        if not any(part in name for name in names):
            pieces = dict.fromkeys(
                piece for name in names for piece in name.split(".") if not piece.isdigit()
            )
            known = ", ".join(list(pieces)[:_MAX_LISTED])
            raise ValueError(
                f"trainable_modules: no parameter of the U-Net has {part!r} in its name;"
                f" there are {known} ..."
            )
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(any(part in name for part in parts))


def add_lora(unet: UNet2DConditionModel, config: Lora) -> None:
    """Put low-rank layers beside the named modules, and train only them.

    Raises ValueError where no module has one of the names.
    """
    names = [name for name, _ in unet.named_modules()]
    for ending in config.target_modules:
        if not any(f".{name}".endswith(f".{ending}") for name in names):
            raise ValueError(f"lora.target_modules: no module of the U-Net is called {ending!r}")
    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(
            r=config.rank, lora_alpha=config.alpha, target_modules=list(config.target_modules),
            init_lora_weights="gaussian",
        )
    )  # fmt: skip


def write_lora(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the low-rank layers by themselves, as stock tools and `generate --lora` read them."""
    (config,) = unet.peft_config.values()
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(unet),
        unet_lora_adapter_metadata=config.to_dict(),  # rank and alpha
        safe_serialization=True,
    )
