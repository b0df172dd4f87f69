"""One stage of the cascade: a U-Net on pixels, its noise schedule and its settings, in memory and on disk.

A folder of a stage: `unet/` as stock diffusers opens it (the image model, where there are temporal layers),
`temporal.safetensors` beside it, `scheduler/`, `stage.json`. A model's folder has such folders by name, and
the text encoder.

Pixels are unshuffled before the U-Net and shuffled after it: patches of p x p pixels become channels, as by a
first convolution of kernel and stride p, so that a CPU meets small images.

Shapes: B clips, F frames, S x S pixels from -1 to 1, p the patch, L text tokens of width D.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, UNet2DModel
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional

from latent_shift.conditioning import Conditioning
from latent_shift.documents import read_json_mapping, validation_error
from latent_shift.io import write_text
from latent_shift.model_files import scheduler_problem
from latent_shift.model_weights import check_weights
from latent_shift.systems.base import TEMPORAL_FILE
from latent_shift.systems.make_a_video.pseudo3d import add_pseudo_3d_layers
from latent_shift.systems.temporal_layers import (
    load_temporal_layers,
    save_temporal_layers,
    set_num_frames,
    temporal_parameters,
    without_temporal_layers,
)

STAGE_FILE = "stage.json"
StageName = Literal["image", "image_sr", "video", "interpolation", "video_sr", "high_sr"]
# Numbers that a clip's seed is mixed with for the noise of a stage; a still of `video` has that of `image`.
NOISE_NUMBERS = {
    "prior": 1,
    "image": 2,
    "video": 2,
    "interpolation": 3,
    "image_sr": 4,
    "video_sr": 4,
    "high_sr": 5,
}
_UNETS = {"UNet2DConditionModel": UNet2DConditionModel, "UNet2DModel": UNet2DModel}
_LABELS_PER_LEVEL = 1000  # a noise level from 0 to 1 is embedded as a timestep

Positive = Annotated[int, Field(ge=1)]


class StageConfig(BaseModel):
    """Settings of a stage: its pixels and frames, its conditions, and its defaults in sampling."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: StageName
    size: Positive = Field(description="height and width of its frames, pixels")
    low_size: Positive | None = Field(None, description="those of the frames it begins with; none: from text")
    patch: Positive = Field(1, description="side of the patches that become channels, pixels")
    frames: Positive = Field(1, description="frames of the clips it was trained on")
    fps: float | None = Field(None, gt=0, description="their frame rate")
    keyframe_stride: Positive = Field(1, description="frames from one key frame to the next")
    temporal_head_width: Positive | None = Field(None, description="of temporal attention; none: image model")
    text: Literal["direct", "prior"] | None = Field(
        None, description="the states of the text encoder, or an image embedding; none: no text"
    )
    frame_position_embedding: bool = Field(False, description="whether text holds the frame's position")
    noise_level: float = Field(0.0, ge=0, lt=1, description="of the noise on the low-resolution frames")
    num_inference_steps: Positive = 20
    guidance_scale: float = Field(1.0, ge=0)
    eta: float = Field(0.0, ge=0, le=1)
    closed_vocabulary: tuple[str, ...] = ()
    untrained_words: tuple[str, ...] = Field((), description="as in `VideoConfig`")

    def changed(self, **values: Any) -> Self:
        """The configuration with other values, checked."""
        return type(self).model_validate({**self.model_dump(), **values})


@dataclass(frozen=True)
class Context:
    """Conditions of B clips beside their noisy frames.

    text: of B*F frames. label (B,): the frame rate, 0 for none; of super-resolution the noise level, 0 to 1.
    channels (B, F, K, S, S): frames that the U-Net reads beside the noisy ones.
    """

    text: Conditioning | None = None
    label: Tensor | None = None
    channels: Tensor | None = None

    def as_images(self, frames: int) -> Context:
        """The same of each of a clip's `frames` frames as a clip of its own."""
        label = None if self.label is None else self.label.repeat_interleave(frames)
        channels = None if self.channels is None else self.channels.flatten(0, 1)[:, None]
        return Context(self.text, label, channels)

    def guided(self, unconditional: Conditioning) -> Context:
        """Twice as many clips: without their text, then with it."""
        assert self.text is not None
        added = self.text.added
        if added is not None and unconditional.added is not None:
            added = {name: torch.cat([unconditional.added[name], added[name]]) for name in added}
        text = Conditioning(torch.cat([unconditional.text, self.text.text]), added)
        twice = (None if one is None else torch.cat([one, one]) for one in (self.label, self.channels))
        return Context(text, *twice)


class StageNetwork(nn.Module):
    """The trained network of a stage, on pixels."""

    def __init__(self, unet: Any, scheduler: DDIMScheduler, config: StageConfig) -> None:
        """Take a stock U-Net; temporal layers are put in where the configuration has them."""
        super().__init__()
        self.unet, self.scheduler, self.config = unet, scheduler, config
        if config.temporal_head_width is not None:
            add_pseudo_3d_layers(unet, config.temporal_head_width)

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32) -> Self:
        """Load a stage's folder. Raises ValueError naming what is missing, damaged or does not fit."""
        config, scheduler = read_stage_config(folder), load_scheduler(folder)
        network = cls(load_unet(folder / "unet", dtype), scheduler, config)
        if config.temporal_head_width is not None:
            load_temporal_layers(network.unet, folder / TEMPORAL_FILE)
        if isinstance(network.unet, UNet2DModel) and network.unet.class_embedding is not None:
            network.unet.class_embedding.float()  # diffusers embeds this model's labels in float32
        return network

    def save(self, folder: Path) -> None:
        """Write a stage's folder, which `load` reads."""
        self.scheduler.save_pretrained(folder / "scheduler")
        if self.config.temporal_head_width is None:
            self.unet.save_pretrained(folder / "unet")
        else:
            save_temporal_layers(self.unet, folder / TEMPORAL_FILE)
            with without_temporal_layers(self.unet):
                self.unet.save_pretrained(folder / "unet")
        write_text(folder / STAGE_FILE, self.config.model_dump_json(indent=2) + "\n")

    def forward(self, noisy: Tensor, timesteps: Tensor, context: Context) -> Tensor:
        """Prediction (B, F, 3, S, S), float32, for noisy clips (B, F, 3, S, S) at timesteps (B,)."""
        frames = noisy.shape[1]
        seen = noisy if context.channels is None else torch.cat([noisy, context.channels], dim=2)
        hidden = functional.pixel_unshuffle(seen.flatten(0, 1), self.config.patch)  # (B*F, C*p*p, S/p, S/p)
        inputs: dict[str, Any] = {}
        if context.text is not None:
            added = (context.text.added or {}).items()
            inputs = {
                "encoder_hidden_states": context.text.text.to(self.unet.dtype),
                "added_cond_kwargs": {name: one.to(self.unet.dtype) for name, one in added},
            }
        if self.unet.class_embedding is not None:
            scale = 1 if self.config.low_size is None else _LABELS_PER_LEVEL
            label = torch.zeros(len(noisy), device=noisy.device) if context.label is None else context.label
            inputs["class_labels"] = (scale * label).repeat_interleave(frames)
        if self.config.temporal_head_width is not None:
            set_num_frames(self.unet, frames)
        predicted = self.unet(
            hidden.to(self.unet.dtype), timesteps.repeat_interleave(frames), **inputs
        ).sample.float()
        return functional.pixel_shuffle(predicted, self.config.patch).unflatten(0, (-1, frames))

    def temporal_parameters(self) -> list[nn.Parameter]:
        """The parameters that the image model does not have: temporal layers, embedding of the frame rate."""
        if self.config.temporal_head_width is None:
            return []
        labels = () if self.config.low_size is not None else self.unet.class_embedding.parameters()
        return [*temporal_parameters(self.unet).values(), *labels]


def load_unet(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Load a U-Net of either class. Raises ValueError for another model, and for one that lacks weights."""
    return _UNETS[check_unet(folder)].from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)


def check_unet(folder: Path) -> str:
    """The class of a U-Net. Raises ValueError as `load_unet`, by its config and headers."""
    name = read_json_mapping(folder / "config.json").get("_class_name")
    if name not in _UNETS:
        raise ValueError(f"{folder}: holds a {name}, expected one of {', '.join(_UNETS)}")
    check_weights(folder, "diffusers", name)
    return str(name)


def load_scheduler(folder: Path) -> DDIMScheduler:
    """The noise schedule of a folder's `scheduler/`. Raises ValueError for one of another family."""
    file = folder / "scheduler" / "scheduler_config.json"
    if problem := scheduler_problem(read_json_mapping(file)):
        raise ValueError(f"{file}: {problem}")
    return DDIMScheduler.from_pretrained(file.parent)


def read_stage_config(folder: Path) -> StageConfig:
    """Read the `stage.json` of a folder. Raises ValueError naming file and key of what does not fit."""
    file = folder / STAGE_FILE
    try:
        return StageConfig.model_validate(read_json_mapping(file))
    except ValidationError as error:
        raise ValueError(f"{file}: {validation_error(error)}") from error


def add_fps_embedding(unet: UNet2DConditionModel) -> None:
    """Give a U-Net the embedding of `class_labels` as frame rates, which changes nothing at the start."""
    width = unet.time_embedding.linear_1.in_features
    unet.class_embedding = type(unet.time_embedding)(width, unet.time_embedding.linear_2.out_features)
    nn.init.zeros_(unet.class_embedding.linear_2.weight)
    nn.init.zeros_(unet.class_embedding.linear_2.bias)
    unet.register_to_config(class_embed_type="timestep")


@torch.no_grad()
def add_input_channels(unet: UNet2DConditionModel, count: int) -> None:
    """Let a U-Net read `count` channels more, after its own, with zero weights: it starts the same."""
    layer = unet.conv_in
    new = layer.weight.new_zeros(layer.out_channels, count, *layer.kernel_size)
    layer.weight = nn.Parameter(torch.cat([layer.weight, new], dim=1))
    layer.in_channels += count
    unet.register_to_config(in_channels=layer.in_channels)
