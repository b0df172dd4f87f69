"""`LatentShiftPipeline`: prompts in, clips out; one frame gives an image.

A diffusers `StableDiffusionPipeline` whose U-Net shifts over frames. Text encoding, loading, offload and
slicing are the base class's own; here stand the checks, the denoising of all frames together, and the
decoding. It opens any folder in the Stable Diffusion layout and saves folders that the stock pipeline opens.

    pipeline = LatentShiftPipeline.from_pretrained(folder)
    clip = pipeline(prompt, num_frames=16, generator=torch.Generator().manual_seed(0)).frames[0]

Shapes: B videos (prompts x videos a prompt), F frames, C latent channels, h x w latent pixels, H x W pixels.
Frames ride in the batch, those of one clip adjacent: (B*F, C, h, w).
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
    StableDiffusionPipeline,
    rescale_noise_cfg,
)
from diffusers.utils import BaseOutput
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image
from torch import Generator, Tensor

from latent_shift.noise import draw_noise, one_a_frame
from latent_shift.prompts import check_texts, read_texts
from latent_shift.unet import disable_temporal_shift, enable_temporal_shift, frames_per_clip, shift_options
from latent_shift.video_settings import FILE_NAME, VideoSettings, read_video_settings, write_video_settings

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
SHIFT_OPTIONS = ("place", "padding", "direction", "fold", "single_frame")


class NonFiniteError(ValueError):
    """Sampling met a NaN or an infinity; the message names the step and the mend."""


@dataclass
class LatentShiftPipelineOutput(BaseOutput):
    """The clips, one entry a video.

    frames: by `output_type`, "pil": B lists of F images; "np": (B, F, H, W, 3) and "pt": (B, F, 3, H, W),
    floats in 0..1; "latent": (B, F, C, h, w).
    """

    frames: list[list[Image.Image]] | np.ndarray | Tensor


class LatentShiftPipeline(StableDiffusionPipeline):
    """Text to video by a text-to-image model whose U-Net shifts over frames (arXiv 2304.08477)."""

    _settings = VideoSettings()
    _warned_of_frames = False

    def register_modules(self, **modules: Any) -> None:
        """As in diffusers; a U-Net that does not shift yet is given the shift, asleep for single frames."""
        super().register_modules(**modules)
        if modules.get("unet") is not None and shift_options(self.unet) is None:
            self.video_settings = self._settings

    @property
    def video_settings(self) -> VideoSettings:
        """How the model was tuned on clips and what it samples with by default. Setting it sets the shift."""
        options = shift_options(self.unet)
        return self._settings.overlaid(
            shift=options is not None, **({} if options is None else asdict(options))
        )

    @video_settings.setter
    def video_settings(self, settings: VideoSettings) -> None:
        self._settings = settings
        if settings.shift:
            options = {name: getattr(settings, name) for name in SHIFT_OPTIONS}
            enable_temporal_shift(self.unet, 1, **options)
        else:
            disable_temporal_shift(self.unet)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> LatentShiftPipeline:
        """Load a folder or hub id in the Stable Diffusion layout, with its `latent_shift.json` if it has one.

        Keywords as in diffusers, but the weights must be safetensors, and without a dtype they load in
        float32, however they were saved. Raises ValueError for a `latent_shift.json` that does not fit.
        """
        if kwargs.setdefault("use_safetensors", True) is not True:
            raise ValueError("use_safetensors must be True: pickled weights can run code and are not loaded")
        pipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if "dtype" not in kwargs and "torch_dtype" not in kwargs and pipeline.text_encoder is not None:
            pipeline.text_encoder.float()  # all else is; transformers alone keeps the precision of the file
        settings_file = _settings_file(pretrained_model_name_or_path, kwargs)
        if settings_file is not None:
            pipeline.video_settings = read_video_settings(settings_file)
        return pipeline

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save a folder that the stock `StableDiffusionPipeline` opens, with `latent_shift.json` beside it.

        Keywords as in diffusers; the weights are safetensors, anything else raises ValueError.
        """
        if kwargs.get("safe_serialization", True) is not True:
            raise ValueError("safe_serialization must be True: weights are saved as safetensors only")
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        write_video_settings(Path(save_directory) / FILE_NAME, self.video_settings)
        super().save_pretrained(save_directory, **kwargs)
        _load_in_float32(Path(save_directory) / "text_encoder" / "config.json")

    def to_json_string(self) -> str:
        """`model_index.json`: that of the stock pipeline, free of where the model was loaded from."""
        index = json.loads(super().to_json_string())
        index.pop("_name_or_path", None)
        index["_class_name"] = StableDiffusionPipeline.__name__
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        num_videos_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generator | list[Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        decode_chunk_size: int | None = None,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_dict: bool = True,
    ) -> LatentShiftPipelineOutput | tuple:
        """Make `num_videos_per_prompt` clips of each prompt, the clips of one prompt adjacent.

        What is None comes from `video_settings`. generator: one a video, whose noise then depends on it
        alone; or one for all. latents: the initial noise, (B, F, C, h, w) or (B*F, C, h, w). prompt_embeds:
        (prompts, L, D), in place of `prompt`. decode_chunk_size: frames decoded at once, by default those of
        one clip; fewer take less memory. callback_on_step_end(pipeline, step, timestep, tensors) may return
        changed tensors, frames in the batch, and may set `pipeline._interrupt` to stop after the step.
        One frame is text-to-image, and equals the stock pipeline. Warns of what the text model cannot read;
        words outside a closed vocabulary are left out. Raises ValueError for a prompt without a known word.
        Raises ValueError for a request that cannot be met, `NonFiniteError` for NaN or infinite values.
        """
        # 1. Fill in the model's own settings, and check the request before any work
        call = self.video_settings.overlaid(
            num_frames=num_frames, height=height, width=width, num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale, guidance_rescale=guidance_rescale,
        )  # fmt: skip
        frames, latent_size = call.num_frames, self._latent_size(call.height, call.width)
        count, prompts, negatives = check_texts(prompt, negative_prompt, prompt_embeds)
        videos = _count_videos(count, num_videos_per_prompt, generator)
        _check_output(output_type, decode_chunk_size)
        self._warn_of_differing_frames(frames)
        words = self._settings.closed_vocabulary
        prompts, negatives = read_texts(self.tokenizer, words, prompts, negatives)

        # 2. Encode the text once a prompt; every frame of a clip reads the same
        self._guidance_scale, self._guidance_rescale = call.guidance_scale, call.guidance_rescale
        embeds = (prompt_embeds, negative_prompt_embeds)
        tensors = self._encode_text(prompts, negatives, embeds, num_videos_per_prompt, frames)

        # 3. Prepare the timesteps
        self.scheduler.set_timesteps(call.num_inference_steps, device=self._execution_device)

        # 4. Draw the noise of each clip
        shape = (videos, frames, self.unet.config.in_channels, *latent_size)
        if latents is None and frames > 1:
            latents = draw_noise(shape, generator, call.noise_correlation)
        tensors["latents"] = self._initial_latents(shape, latents, generator, tensors["prompt_embeds"].dtype)

        # 5. Denoise all frames together
        step_options = self.prepare_extra_step_kwargs(one_a_frame(generator, frames), eta)
        with self._clips_of(frames):
            self._denoise(tensors, step_options, callback_on_step_end, callback_on_step_end_tensor_inputs)

        # 6. Decode a clip at a time, or images all at once as the stock pipeline does
        chunk = decode_chunk_size or (frames if frames > 1 else videos)
        images = self._decode(tensors["latents"], chunk, output_type)
        self.maybe_free_model_hooks()
        clips = _by_clip(images, frames)
        return LatentShiftPipelineOutput(frames=clips) if return_dict else (clips,)

    def _latent_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width in latent pixels, by default the U-Net's. Raises ValueError for a broken size."""
        own, scale = self.unet.config.sample_size, self.vae_scale_factor
        defaults = (own, own) if isinstance(own, int) else own
        size = []
        for name, pixels, default in zip(("height", "width"), (height, width), defaults, strict=True):
            if pixels is not None and pixels % scale != 0:
                below = pixels // scale * scale
                near = f"{below} or {below + scale}" if below else str(scale)
                raise ValueError(f"{name}={pixels} must be a multiple of {scale} for this model: try {near}")
            size.append(default if pixels is None else pixels // scale)
        return size[0], size[1]

    def _warn_of_differing_frames(self, frames: int) -> None:
        """Warn once where frames cannot fit together: the model does not shift, or never learned to."""
        settings = self.video_settings
        if frames == 1 or self._warned_of_frames:
            return
        if self._settings.shift and not settings.shift:
            reason = "the temporal shift is off in this U-Net: call enable_temporal_shift(pipeline.unet, 1)"
        elif not settings.video_tuned:
            reason = "this checkpoint was never video-tuned: fine-tune it on clips, or ask for num_frames=1"
        else:
            return
        self._warned_of_frames = True
        warnings.warn(f"every frame will differ, for {reason}", stacklevel=4)

    def _encode_text(
        self,
        prompts: list[str] | None,
        negatives: list[str] | None,
        embeds: tuple[Tensor | None, Tensor | None],
        videos_per_prompt: int,
        frames: int,
    ) -> dict[str, Tensor]:
        """The text for each frame, (B*F, L, D); under guidance (2*B*F, L, D), negative prompts first."""
        guided = self.do_classifier_free_guidance
        text, negative = self.encode_prompt(
            prompts, self._execution_device, videos_per_prompt, guided, negatives,
            prompt_embeds=embeds[0], negative_prompt_embeds=embeds[1],
        )  # fmt: skip
        text = text.repeat_interleave(frames, dim=0)
        if not guided:
            return {"prompt_embeds": text}
        negative = negative.repeat_interleave(frames, dim=0)
        return {"prompt_embeds": torch.cat([negative, text]), "negative_prompt_embeds": negative}

    def _initial_latents(
        self, shape: tuple[int, ...], noise: Tensor | None, generator: Any, dtype: torch.dtype
    ) -> Tensor:
        """The noise at the scheduler's scale, (B*F, C, h, w); if None, drawn as the stock pipeline does."""
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

    def _clips_of(self, frames: int) -> AbstractContextManager[None]:
        return nullcontext() if shift_options(self.unet) is None else frames_per_clip(self.unet, frames)

    def _denoise(
        self,
        tensors: dict[str, Tensor],
        step_options: dict[str, Any],
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
            noise = self._predict(latents, timestep, tensors["prompt_embeds"])
            latents = self.scheduler.step(noise, timestep, latents, **step_options, return_dict=False)[0]
            if not torch.isfinite(latents).all():
                where = f"after step {step + 1} of {self._num_timesteps} (timestep {int(timestep)})"
                raise NonFiniteError(_non_finite("latents are", where, latents.dtype))
            tensors["latents"] = latents
            if callback is not None:
                shown = {name: tensors.get(name) for name in callback_inputs}
                tensors.update(callback(self, step, timestep, shown) or {})
            if self.interrupt:
                break

    def _predict(self, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """The U-Net's guided prediction for the latents (B*F, C, h, w)."""
        guided = self.do_classifier_free_guidance
        sample = self.scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, timestep)
        prediction = self.unet(
            sample, timestep, encoder_hidden_states=text, timestep_cond=self._guidance_embedding(latents),
            return_dict=False,
        )[0]  # fmt: skip
        if not guided:
            return prediction
        without_text, with_text = prediction.chunk(2)
        prediction = without_text + self.guidance_scale * (with_text - without_text)
        if self.guidance_rescale > 0:
            prediction = rescale_noise_cfg(prediction, with_text, guidance_rescale=self.guidance_rescale)
        return prediction

    def _guidance_embedding(self, latents: Tensor) -> Tensor | None:
        """What a U-Net distilled to know its guidance is told of it, (B*F, T); None for any other U-Net."""
        width = self.unet.config.time_cond_proj_dim
        if width is None:
            return None
        scale = torch.tensor(self.guidance_scale - 1).repeat(len(latents))
        return self.get_guidance_scale_embedding(scale, embedding_dim=width).to(latents)

    def _decode(
        self, latents: Tensor, chunk: int, output_type: str
    ) -> list[Image.Image] | np.ndarray | Tensor:
        """Latents (B*F, C, h, w) to images by `output_type`, `chunk` of them at a time."""
        if output_type == "latent":
            return latents
        scaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        images = torch.cat([self.vae.decode(part, return_dict=False)[0] for part in scaled.split(chunk)])
        if not torch.isfinite(images).all():
            raise NonFiniteError(_non_finite("frames are", "after the last step, decoded", images.dtype))
        images, flagged = self.run_safety_checker(images, images.device, latents.dtype)
        shown = None if flagged is None else [not flag for flag in flagged]
        return self.image_processor.postprocess(images, output_type=output_type, do_denormalize=shown)


def _count_videos(prompts: int, videos_per_prompt: int, generator: Any) -> int:
    """Prompts times videos a prompt. Raises ValueError where that does not fit the generators."""
    if videos_per_prompt < 1:
        raise ValueError(f"num_videos_per_prompt={videos_per_prompt} must be at least 1")
    videos = prompts * videos_per_prompt
    if isinstance(generator, list) and len(generator) != videos:
        raise ValueError(
            f"{len(generator)} generators for {videos} videos: pass one for each video, or one for all"
        )
    return videos


def _check_output(output_type: str, decode_chunk_size: int | None) -> None:
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type={output_type!r} is unknown: choose one of {', '.join(OUTPUT_TYPES)}")
    if decode_chunk_size is not None and decode_chunk_size < 1:
        raise ValueError(f"decode_chunk_size={decode_chunk_size} must be at least 1 frame")


def _by_clip(images: Any, frames: int) -> Any:
    """Part B*F images into clips of F."""
    if isinstance(images, list):
        return [images[first : first + frames] for first in range(0, len(images), frames)]
    return images.reshape(-1, frames, *images.shape[1:])


def _non_finite(what: str, where: str, dtype: torch.dtype) -> str:
    full = "the weights, or the scheduler's settings, are at fault"
    mend = full if dtype == torch.float32 else "load the model with torch_dtype=torch.float32"
    return f"{what} no longer finite {where} in {str(dtype).removeprefix('torch.')}: {mend}"


def _load_in_float32(config_file: Path) -> None:
    """Let a text model saved in half precision load in float32 like its neighbours: stock tools then run it.

    Without a dtype diffusers loads in float32, but transformers in the precision that the config names.
    """
    if config_file.is_file():
        config = json.loads(config_file.read_text(encoding="utf-8"))
        config_file.write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n", encoding="utf-8")


def _settings_file(model: str | os.PathLike, keywords: dict[str, Any]) -> Path | None:
    """The `latent_shift.json` of a folder, or of a hub id; None where it has none."""
    if os.path.isdir(model):
        path = Path(model) / FILE_NAME
        return path if path.is_file() else None
    hub = ("cache_dir", "force_download", "local_files_only", "token", "revision")
    try:
        return Path(hf_hub_download(str(model), FILE_NAME, **{k: keywords[k] for k in hub if k in keywords}))
    except EntryNotFoundError:
        return None
