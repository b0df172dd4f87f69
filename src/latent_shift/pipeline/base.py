"""Text to video by diffusers pipelines with the temporal shift: the part that both layouts share.

Settings of the shift, loading and saving, and the call: checks, denoising of all frames together, decoding in
chunks. Encoding text, offload and slicing are those of the stock pipeline that a subclass adds.

Shapes: B videos (prompts x videos per prompt), F frames, C latent channels, h x w latent pixels, H x W
pixels. Frames ride in the batch, those of one clip adjacent: (B*F, C, h, w).
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Generator, Tensor, nn

from latent_shift.autoencoder import decode_latents
from latent_shift.conditioning import PromptEmbeds, repeat_per_frame, stack_embeds
from latent_shift.io import one_line, warn, write_json
from latent_shift.noise import draw_noise, repeat_generator_per_frame
from latent_shift.prompts import preprocess_prompts, validate_prompts
from latent_shift.unet import (
    disable_temporal_shift,
    enable_temporal_shift,
    override_num_frames,
    shift_options,
)
from latent_shift.video_config import (
    FILE_NAME,
    VideoConfig,
    fetch_video_config,
    read_video_config,
    write_video_config,
)

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")

# From a zero terminal SNR diffusers' DDIM takes, in its first step, the root of the variance left beside the
# fresh noise, which rounding may make negative at eta = 1.
_MAX_ETA = 1 - 1e-6


class NonFiniteError(ValueError):
    """Sampling met a NaN or an infinity; the message names the step and the mend."""


@dataclass
class LatentShiftPipelineOutput(BaseOutput):
    """The clips, one entry per video.

    frames: by `output_type`, "pil": B lists of F images; "np": (B, F, H, W, 3) and "pt": (B, F, 3, H, W),
    floats in 0..1; "latent": (B, F, C, h, w).
    """

    frames: list[list[Image.Image]] | np.ndarray | Tensor


class VideoPipelineMixin(DiffusionPipeline):
    """Text to video with a U-Net that shifts over frames; a subclass adds the stock pipeline of a layout."""

    stock_class: type[DiffusionPipeline]  # opens the saved folders
    _upcast_decoding = False  # of the layout: whether a float16 autoencoder may decode in float32

    _warned_of_frames = False

    # Settings, loading and saving

    def register_modules(self, **modules: Any) -> None:
        """As in diffusers; a stock U-Net is given the shift, bypassed for single frames."""
        super().register_modules(**modules)
        if modules.get("unet") is not None and shift_options(self.unet) is None:
            self.video_config = self._stored_config

    @property
    def video_config(self) -> VideoConfig:
        """Settings of the model for clips and its defaults in sampling. Setting it sets the U-Net's shift.

        They belong to the U-Net: every pipeline made of it has them (`from_pipe`, `components`, copies).
        """
        return self._stored_config.model_copy(update={"shift": shift_options(self.unet)})

    @video_config.setter
    def video_config(self, config: VideoConfig) -> None:
        if config.shift is None:
            disable_temporal_shift(self.unet)
        else:
            enable_temporal_shift(self.unet, 1, config.shift)
        unet: Any = getattr(self.unet, "_orig_mod", self.unet)
        unet.video_config = config

    @property
    def _stored_config(self) -> VideoConfig:
        """The settings as set; the U-Net's shift may have changed since."""
        return getattr(self.unet, "video_config", VideoConfig())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """Load a folder or hub id in this pipeline's layout, with its `latent_shift.json` if it has one.

        Keywords as in diffusers, but the weights must be safetensors, and without a dtype they load in
        float32, however they were saved. Raises ValueError for a `latent_shift.json` that does not fit.
        """
        if kwargs.setdefault("use_safetensors", True) is not True:
            raise ValueError("use_safetensors must be True: pickled weights can run code and are not loaded")
        config_file = _find_config(pretrained_model_name_or_path, kwargs)
        pipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if "dtype" not in kwargs and "torch_dtype" not in kwargs:
            for text_encoder in pipeline.text_encoders():  # all else is float32; only transformers keeps
                text_encoder.float()  # the precision of the file
        if config_file is not None:
            pipeline.video_config = read_video_config(config_file)
        return pipeline

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save a folder that the stock pipeline opens, with `latent_shift.json` beside it.

        Keywords as in diffusers; the weights are safetensors, anything else raises ValueError. So do attached
        LoRA layers: the folder would hold weights under names that nothing opens.
        """
        if kwargs.get("safe_serialization", True) is not True:
            raise ValueError("safe_serialization must be True: weights are saved as safetensors only")
        if any(getattr(part, "peft_config", None) for part in (self.unet, *self.text_encoders())):
            mend = "merge them (fuse_lora, then unload_lora_weights), or unload them"
            raise ValueError(f"LoRA layers are attached to this pipeline: {mend} before it is saved")
        folder = Path(save_directory)
        write_video_config(folder / FILE_NAME, self.video_config)
        super().save_pretrained(folder, **kwargs)
        for config_file in (folder / name / "config.json" for name in _TEXT_ENCODERS):
            if config_file.is_file():  # where no dtype is given, transformers loads in that of the config
                config = json.loads(config_file.read_text(encoding="utf-8"))
                write_json(config_file, {**config, "dtype": "float32"})

    def to_json_string(self) -> str:
        """`model_index.json`: that of the stock pipeline, without the path that the model was loaded from."""
        index = json.loads(super().to_json_string())
        index.pop("_name_or_path", None)
        index["_class_name"] = self.stock_class.__name__
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    def text_encoders(self) -> list[nn.Module]:
        """The text encoders of this pipeline: one; in SDXL's layout two."""
        parts = (getattr(self, name, None) for name in _TEXT_ENCODERS)
        return [part for part in parts if part is not None]

    # Sampling

    @abstractmethod
    def _encode_prompts(
        self,
        prompts: list[str] | None,
        negatives: list[str] | None,
        videos_per_prompt: int,
        given: dict[str, Tensor | None],
    ) -> tuple[PromptEmbeds, PromptEmbeds | None]:
        """Embeddings of B prompts and, under guidance, of their negative prompts.

        given: text that comes encoded, by the keywords of the stock `encode_prompt`.
        """

    @abstractmethod
    def _postprocess(self, images: Tensor, dtype: torch.dtype) -> tuple[Tensor, list[bool] | None]:
        """Images (B*F, 3, H, W) to show, and which to denormalize (None: all). dtype: of the latents."""

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        num_videos_per_prompt: int = 1,
        eta: float | None = None,
        generator: Generator | list[Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        decode_chunk_size: int | None = None,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_dict: bool = True,
    ) -> LatentShiftPipelineOutput | tuple:
        """Generate clips from prompts, the clips of one prompt adjacent; one frame equals the stock image.

        Args:
            prompt, negative_prompt: a text, or one per prompt. Warns (UserWarning) about text that the text
                encoder truncates or does not know; words outside a closed vocabulary are left out.
            num_frames, fps, height, width, num_inference_steps, guidance_scale, guidance_rescale, eta: ranges
                and units as in `VideoConfig`; None takes the model's own. fps matters only to models tuned
                with it. eta: fresh noise in every step, correlated between frames as the initial noise.
            num_videos_per_prompt: clips of each prompt, at least 1.
            generator: one per video, so that its noise depends on this one only; or one for all.
            latents: initial noise of unit variance, (B, F, C, h, w) or (B*F, C, h, w).
            prompt_embeds, negative_prompt_embeds: (prompts, L, D) in place of texts.
            pooled_prompt_embeds, negative_pooled_prompt_embeds: (prompts, P), with them in SDXL's layout.
            output_type: "pil", "np", "pt" or "latent".
            decode_chunk_size: frames decoded together, by default a clip's; fewer take less memory.
            callback_on_step_end: called as (pipeline, step, timestep, tensors); may return changed tensors,
                and set `pipeline._interrupt` to stop.
            callback_on_step_end_tensor_inputs: names of the tensors that it is given.
            return_dict: false for a tuple of one entry, the frames.

        Raises:
            ValueError: for a request that cannot be met, or a prompt without a known word.
            NonFiniteError: for NaN or infinite latents or frames.
        """
        # 1. Fill in the model's own settings and check the request before any work
        call = self.video_config.overlaid(
            num_frames=num_frames, fps=fps, height=height, width=width, guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps, guidance_rescale=guidance_rescale, eta=eta,
        )  # fmt: skip
        frames, scale = call.num_frames, self.vae_scale_factor
        size = latent_size(call.height, call.width, scale, self.unet.config.sample_size)
        count, prompts, negatives = validate_prompts(prompt, negative_prompt, prompt_embeds)
        videos = count_videos(count, num_videos_per_prompt, generator)
        shape = (videos, frames, self.unet.config.in_channels, *size)
        check_output(output_type, decode_chunk_size)
        self._warn_of_differing_frames(frames)
        appended_fps = call.fps if call.append_fps_to_caption and frames > 1 else None
        prompts, negatives = preprocess_prompts(
            self.tokenizer, call.closed_vocabulary, prompts, negatives, appended_fps
        )
        # 2. Encode the text once per prompt; negative prompts come first in the batch of guidance
        self._guidance_scale, self._guidance_rescale = call.guidance_scale, call.guidance_rescale
        given = {
            "prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds,
            "pooled_prompt_embeds": pooled_prompt_embeds,
            "negative_pooled_prompt_embeds": negative_pooled_prompt_embeds,
        }  # fmt: skip
        embeds, negative_embeds = self._encode_prompts(prompts, negatives, num_videos_per_prompt, given)
        stacked = embeds if negative_embeds is None else stack_embeds(negative_embeds, embeds)
        pixels = (size[0] * scale, size[1] * scale)
        conditioning = repeat_per_frame(
            stacked, frames, pixels, frame_positions=call.frame_position_embedding
        )
        tensors = {"prompt_embeds": conditioning.text}  # a callback may ask for each by its name
        if negative_embeds is not None:
            tensors["negative_prompt_embeds"] = conditioning.text.chunk(2)[0]
        if conditioning.added is not None:
            tensors["add_text_embeds"] = conditioning.added["text_embeds"]
            tensors["add_time_ids"] = conditioning.added["time_ids"]
        # 3. Prepare the timesteps and the noise of each clip
        set_timesteps(self.scheduler, call.num_inference_steps, self._execution_device)
        draw = partial(draw_noise, shape, generator, call.shared_noise_ratio, call.progressive_noise_alpha)
        if latents is None and frames > 1:
            latents = draw()
        tensors["latents"] = self._initial_latents(shape, latents, generator, conditioning.text.dtype)
        # 4. Denoise all frames together; a model's own eta is for clips only
        step_kwargs = self._scheduler_step_kwargs(
            generator, frames, call.eta if frames > 1 else eta or 0.0, draw
        )
        is_shifting = shift_options(self.unet) is not None
        with override_num_frames(self.unet, frames) if is_shifting else nullcontext():
            self._denoise(tensors, step_kwargs, callback_on_step_end, callback_on_step_end_tensor_inputs)
        # 5. Decode a clip at a time, or images all at once as the stock pipeline does
        chunk = decode_chunk_size or (frames if frames > 1 else videos)
        clips = split_into_clips(self._decode(tensors["latents"], chunk, output_type), frames)
        self.maybe_free_model_hooks()
        return LatentShiftPipelineOutput(frames=clips) if return_dict else (clips,)

    def _warn_of_differing_frames(self, frames: int) -> None:
        """Warn once where frames cannot fit together: the model does not shift, or never learned to."""
        if frames == 1 or self._warned_of_frames:
            return
        if self._stored_config.shift is not None and shift_options(self.unet) is None:
            reason = "the temporal shift is off in this U-Net: call enable_temporal_shift(pipeline.unet, 1)"
        elif not self._stored_config.video_tuned:
            reason = "this checkpoint was never video-tuned: fine-tune it on clips, or ask for num_frames=1"
        else:
            return
        self._warned_of_frames = True
        warn(f"every frame will differ, for {reason}")

    def _initial_latents(
        self, shape: tuple[int, ...], noise: Tensor | None, generator: Any, dtype: torch.dtype
    ) -> Tensor:
        """The noise at the scheduler's scale, (B*F, C, h, w); if None, drawn as the stock pipeline does.

        shape: (B, F, C, h, w).
        """
        flat = (shape[0] * shape[1], *shape[2:])
        if noise is not None:
            if tuple(noise.shape) not in (shape, flat):
                raise ValueError(
                    f"latents {tuple(noise.shape)} must be {shape} (videos, frames, ...) or {flat}"
                )
            noise, generator = noise.reshape(flat).to(dtype), None
        height, width = (side * self.vae_scale_factor for side in shape[3:])
        device = self._execution_device
        return self.prepare_latents(flat[0], flat[1], height, width, dtype, device, generator, noise)

    def _scheduler_step_kwargs(
        self, generator: Any, frames: int, eta: float, draw: Callable[[], Tensor]
    ) -> Callable[[], dict[str, Any]]:
        """Further keywords of each step of the scheduler.

        Where a step adds noise and lets its caller draw it, that comes from `draw`, (B*F, C, h, w): frames of
        a clip share as much of it as of the initial noise.
        """
        if frames > 1:
            eta = min(eta, _MAX_ETA)
        kwargs = self.prepare_extra_step_kwargs(repeat_generator_per_frame(generator, frames), eta)
        takes_noise = "variance_noise" in signature(self.scheduler.step).parameters
        if frames == 1 or not kwargs.get("eta") or not takes_noise:
            return lambda: kwargs
        device, dtype = self._execution_device, self.unet.dtype
        return lambda: {"eta": eta, "variance_noise": draw().to(device, dtype)}

    def _denoise(
        self,
        tensors: dict[str, Tensor],
        step_kwargs: Callable[[], dict[str, Any]],
        callback: Callable[..., dict[str, Any] | None] | None,
        callback_inputs: Sequence[str],
    ) -> None:
        """Take `tensors["latents"]` (B*F, C, h, w) through all timesteps, or until a callback interrupts."""
        if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
            callback_inputs = callback.tensor_inputs
        unknown = sorted(set(callback_inputs) - set(self._callback_tensor_inputs))
        if unknown:
            raise ValueError(
                f"callback tensors {unknown} are unknown: choose of {self._callback_tensor_inputs}"
            )
        self._interrupt, self._num_timesteps = False, len(self.scheduler.timesteps)
        for step, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
            latents = tensors["latents"]
            noise = self._predict(latents, timestep, tensors)
            latents = self.scheduler.step(noise, timestep, latents, **step_kwargs(), return_dict=False)[0]
            if not torch.isfinite(latents).all():
                where = f"after step {step + 1} of {self._num_timesteps} (timestep {int(timestep)})"
                raise NonFiniteError(_non_finite("latents are", where, latents.dtype))
            tensors["latents"] = latents
            if callback is not None:
                shown = {name: tensors.get(name) for name in callback_inputs}
                tensors.update(callback(self, step, timestep, shown) or {})
            if self.interrupt:
                break

    def _predict(self, latents: Tensor, timestep: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """The U-Net's guided prediction for latents (B*F, C, h, w)."""
        guided = self.do_classifier_free_guidance
        sample = self.scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, timestep)
        added = None
        if "add_time_ids" in tensors:
            added = {"text_embeds": tensors["add_text_embeds"], "time_ids": tensors["add_time_ids"]}
        guidance_embedding = None
        if self.unet.config.time_cond_proj_dim is not None:  # a U-Net distilled to know its guidance
            scale = torch.tensor(self.guidance_scale - 1).repeat(len(latents))
            width = self.unet.config.time_cond_proj_dim
            guidance_embedding = self.get_guidance_scale_embedding(scale, embedding_dim=width).to(latents)
        prediction = self.unet(
            sample, timestep, encoder_hidden_states=tensors["prompt_embeds"],
            timestep_cond=guidance_embedding, added_cond_kwargs=added, return_dict=False,
        )[0]  # fmt: skip
        if not guided:
            return prediction
        without_text, with_text = prediction.chunk(2)
        prediction = without_text + self.guidance_scale * (with_text - without_text)
        if self.guidance_rescale > 0:
            prediction = rescale_noise_cfg(prediction, with_text, guidance_rescale=self.guidance_rescale)
        return prediction

    def _decode(
        self, latents: Tensor, chunk: int, output_type: str
    ) -> list[Image.Image] | np.ndarray | Tensor:
        """Latents (B*F, C, h, w) to images by `output_type`, `chunk` of them at a time."""
        if output_type == "latent":
            return latents
        images = decode_latents(self.vae, latents, chunk, upcast=self._upcast_decoding)
        if not torch.isfinite(images).all():
            raise NonFiniteError(_non_finite("frames are", "after the last step, decoded", images.dtype))
        images, denormalize = self._postprocess(images, latents.dtype)
        return self.image_processor.postprocess(images, output_type=output_type, do_denormalize=denormalize)


def set_timesteps(scheduler: Any, steps: int, device: torch.device | str | None = None) -> None:
    """Set a scheduler's timesteps. Raises ValueError for more steps than its noise schedule has room for.

    The stock schedulers then leave the schedule, or take two steps at one noise level, which divides by zero.
    """
    trained, reason = scheduler.config.num_train_timesteps, ""
    try:
        scheduler.set_timesteps(steps, device=device)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        reason = f": {one_line(error)}"
    else:
        levels = scheduler.sigmas[:-1] if hasattr(scheduler, "sigmas") else scheduler.timesteps
        if scheduler.timesteps.max() < trained and len(levels.unique()) >= steps:
            return
    raise ValueError(
        f"{steps} steps: are more than {type(scheduler).__name__} can take on this model's schedule of"
        f" {trained} timesteps; use fewer{reason}"
    )


def count_videos(prompts: int, videos_per_prompt: int, generator: Any) -> int:
    """Prompts times videos per prompt. Raises ValueError where that does not fit the generators."""
    if videos_per_prompt < 1:
        raise ValueError(f"num_videos_per_prompt={videos_per_prompt} must be at least 1")
    videos = prompts * videos_per_prompt
    if isinstance(generator, list) and len(generator) != videos:
        raise ValueError(
            f"{len(generator)} generators for {videos} videos: pass one for each video, or one for all"
        )
    return videos


def latent_size(
    height: int | None, width: int | None, scale: int, default: int | tuple[int, int]
) -> tuple[int, int]:
    """Height and width in latent pixels.

    Args:
        height, width: pixels; None takes the default.
        scale: pixels per latent pixel.
        default: the U-Net's own size in latent pixels.

    Raises:
        ValueError: for a size that is no multiple of the scale.
    """
    defaults = (default, default) if isinstance(default, int) else default
    size = []
    for name, pixels, own in zip(("height", "width"), (height, width), defaults, strict=True):
        if pixels is not None and pixels % scale != 0:
            below = pixels // scale * scale
            near = f"{below} or {below + scale}" if below else str(scale)
            raise ValueError(f"{name}={pixels} must be a multiple of {scale} for this model: try {near}")
        size.append(own if pixels is None else pixels // scale)
    return size[0], size[1]


def check_output(output_type: str, decode_chunk_size: int | None) -> None:
    """Raise ValueError for an unknown type of output, or chunks of no frame."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type={output_type!r} is unknown: choose one of {', '.join(OUTPUT_TYPES)}")
    if decode_chunk_size is not None and decode_chunk_size < 1:
        raise ValueError(f"decode_chunk_size={decode_chunk_size} must be at least 1 frame")


def split_into_clips(images: Any, frames: int) -> Any:
    """Split B*F images into B clips: a list into lists, an array or tensor along its first axis."""
    if isinstance(images, list):
        return [images[first : first + frames] for first in range(0, len(images), frames)]
    return images.reshape(-1, frames, *images.shape[1:])


def read_index(model: str | os.PathLike, keywords: dict[str, Any]) -> dict[str, Any]:
    """The `model_index.json` of a folder or a hub id; empty for a folder that has none."""
    if os.path.isdir(model) and not (Path(model) / "model_index.json").is_file():
        return {}
    return dict(DiffusionPipeline.load_config(model, **_hub_options(keywords)))


def _find_config(model: str | os.PathLike, keywords: dict[str, Any]) -> Path | None:
    """The `latent_shift.json` of a folder, or of a hub id; None where it has none."""
    if os.path.isdir(model):
        path = Path(model) / FILE_NAME
        return path if path.is_file() else None
    return fetch_video_config(str(model), **_hub_options(keywords))


def _hub_options(keywords: dict[str, Any]) -> dict[str, Any]:
    return {name: keywords[name] for name in _HUB_OPTIONS if name in keywords}


def _non_finite(subject: str, where: str, dtype: torch.dtype) -> str:
    full = "the weights, or the scheduler's settings, are at fault"
    mend = full if dtype == torch.float32 else "load the model with torch_dtype=torch.float32"
    return f"{subject} no longer finite {where} in {str(dtype).removeprefix('torch.')}: {mend}"
