"""The call of a pipeline: checks, the denoising of all frames together, and decoding by chunks.

What models differ in (encoding text, added conditions, how latents are decoded) is asked of the classes that
add a stock pipeline to this one. No loading here.

Shapes: B videos (prompts x videos a prompt), F frames, C latent channels, h x w latent pixels, H x W pixels.
Frames ride in the batch, those of one clip adjacent: (B*F, C, h, w).
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Generator, Tensor

from latent_shift.conditioning import add_frame_positions
from latent_shift.noise import draw_noise, repeat_generator_per_frame
from latent_shift.pipeline.request import TextEmbeds, by_clip, check_output, count_videos, latent_size
from latent_shift.pipeline.shifting import ShiftedPipeline
from latent_shift.prompts import preprocess_prompts, validate_prompts
from latent_shift.unet import override_num_frames, shift_options

# All noise anew, all but a millionth: from a zero terminal SNR diffusers' DDIM takes the root of what is left
# beside it in its first step, which rounding may make negative.
_MOST_ETA = 1 - 1e-6


class NonFiniteError(ValueError):
    """Sampling met a NaN or an infinity; the message names the step and the mend."""


@dataclass
class LatentShiftPipelineOutput(BaseOutput):
    """The clips, one entry a video.

    frames: by `output_type`, "pil": B lists of F images; "np": (B, F, H, W, 3) and "pt": (B, F, 3, H, W),
    floats in 0..1; "latent": (B, F, C, h, w).
    """

    frames: list[list[Image.Image]] | np.ndarray | Tensor


class ClipSampling(ShiftedPipeline):
    """Text to video by a pipeline whose U-Net shifts; a stock pipeline is to be added to it."""

    _warned_of_frames = False

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
        """Make `num_videos_per_prompt` clips of each prompt, the clips of one prompt adjacent.

        What is None comes from `video_settings`. fps: told to models that were tuned to hear it. generator:
        one a video, whose noise then depends on it alone; or one for all. eta: fresh noise in every step, as
        alike between frames as the initial one (arXiv 2010.02502). latents: the initial noise,
        (B, F, C, h, w) or (B*F, C, h, w). prompt_embeds: (prompts, L, D) in place of `prompt`, for SDXL with
        its pooled embeds (prompts, P). decode_chunk_size: frames decoded at once, by default a clip's; fewer
        take less memory. callback_on_step_end(pipeline, step, timestep, tensors) may return changed tensors,
        and set `pipeline._interrupt` to stop there. One frame equals the stock pipeline's image. Warns of
        what the text model cannot read; words outside a closed vocabulary are left out. Raises ValueError for
        a prompt without a known word, or a request that cannot be met, `NonFiniteError` for NaN or infinite
        values.
        """
        # 1. Fill in the model's own settings, and check the request before any work
        call = self.video_settings.overlaid(
            num_frames=num_frames, fps=fps, height=height, width=width, guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps, guidance_rescale=guidance_rescale, eta=eta,
        )  # fmt: skip
        frames, per_prompt, scale = call.num_frames, num_videos_per_prompt, self.vae_scale_factor
        size = latent_size(call.height, call.width, scale, self.unet.config.sample_size)
        embeds = TextEmbeds(
            prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds
        )
        count, prompts, negatives = validate_prompts(prompt, negative_prompt, prompt_embeds)
        shape = (count_videos(count, per_prompt, generator), frames, self.unet.config.in_channels, *size)
        check_output(output_type, decode_chunk_size)
        self._warn_of_differing_frames(frames)
        told = call.fps if call.tells_fps and frames > 1 else None
        words = self._settings.closed_vocabulary
        prompts, negatives = preprocess_prompts(self.tokenizer, words, prompts, negatives, told)
        # 2. Encode the text once a prompt; every frame of a clip reads the same, and its own place if told
        self._guidance_scale, self._guidance_rescale = call.guidance_scale, call.guidance_rescale
        pixels = (size[0] * scale, size[1] * scale)
        tensors = self._encode(prompts, negatives, embeds, per_prompt, frames, pixels)
        if call.tells_places:
            tensors["prompt_embeds"] = add_frame_positions(tensors["prompt_embeds"], frames)
        # 3. Prepare the timesteps, and the noise of each clip
        self.scheduler.set_timesteps(call.num_inference_steps, device=self._execution_device)
        draw = partial(draw_noise, shape, generator, call.noise_correlation, call.noise_persistence)
        if latents is None and frames > 1:
            latents = draw()
        tensors["latents"] = self._initial_latents(shape, latents, generator, tensors["prompt_embeds"].dtype)
        # 4. Denoise all frames together
        step_options = self._step_options(generator, frames, call.eta if frames > 1 else eta or 0.0, draw)
        with self._clips_of(frames):
            self._denoise(tensors, step_options, callback_on_step_end, callback_on_step_end_tensor_inputs)
        # 5. Decode a clip at a time, or images all at once as the stock pipeline does
        chunk = decode_chunk_size or (frames if frames > 1 else shape[0])
        clips = by_clip(self._decode(tensors["latents"], chunk, output_type), frames)
        self.maybe_free_model_hooks()
        return LatentShiftPipelineOutput(frames=clips) if return_dict else (clips,)

    @abstractmethod
    def _encode(
        self,
        prompts: list[str] | None,
        negatives: list[str] | None,
        embeds: TextEmbeds,
        videos_per_prompt: int,
        frames: int,
        size: tuple[int, int],
    ) -> dict[str, Tensor]:
        """What the U-Net is told, for each frame; under guidance twice, the negative prompts first.

        "prompt_embeds" (B*F, L, D), under guidance (2*B*F, L, D), and what `_added_conditions` needs; a
        callback may ask for each by its name. size: height and width in pixels.
        """

    @abstractmethod
    def _finish(self, images: Tensor, dtype: Any) -> tuple[Tensor, list[bool] | None]:
        """Images (B*F, 3, H, W) as they may be shown, and which of them: None, all. dtype: the latents'."""

    def _added_conditions(self, tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """What the U-Net is told beside the text, out of what `_encode` gave; None for nothing."""
        return None

    def _decoding(self) -> AbstractContextManager[None]:
        """What the autoencoder needs while it decodes."""
        return nullcontext()

    def _unscaled(self, latents: Tensor) -> Tensor:
        """Latents (B*F, C, h, w) in the autoencoder's own scale."""
        return latents / self.vae.config.scaling_factor

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
        return nullcontext() if shift_options(self.unet) is None else override_num_frames(self.unet, frames)

    def _step_options(
        self, generator: Any, frames: int, eta: float, draw: Callable[[], Tensor]
    ) -> Callable[[], dict[str, Any]]:
        """What each step of the scheduler is told beside its prediction.

        Where a step adds noise and lets its caller draw it, that comes from `draw`, (B*F, C, h, w): frames of
        a clip have as much of it in common as of the initial noise.
        """
        if frames > 1:
            eta = min(eta, _MOST_ETA)
        options = self.prepare_extra_step_kwargs(repeat_generator_per_frame(generator, frames), eta)
        takes_noise = "variance_noise" in signature(self.scheduler.step).parameters
        if frames == 1 or not options.get("eta") or not takes_noise:
            return lambda: options
        device, dtype = self._execution_device, self.unet.dtype
        return lambda: {"eta": eta, "variance_noise": draw().to(device, dtype)}

    def _denoise(
        self,
        tensors: dict[str, Tensor],
        step_options: Callable[[], dict[str, Any]],
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
            latents = self.scheduler.step(noise, timestep, latents, **step_options(), return_dict=False)[0]
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
        """The U-Net's guided prediction for the latents (B*F, C, h, w)."""
        guided = self.do_classifier_free_guidance
        sample = self.scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, timestep)
        prediction = self.unet(
            sample, timestep, encoder_hidden_states=tensors["prompt_embeds"],
            timestep_cond=self._guidance_embedding(latents),
            added_cond_kwargs=self._added_conditions(tensors), return_dict=False,
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
        with self._decoding():
            own = self._unscaled(latents.to(self.vae.dtype))
            images = torch.cat([self.vae.decode(part, return_dict=False)[0] for part in own.split(chunk)])
        if not torch.isfinite(images).all():
            raise NonFiniteError(_non_finite("frames are", "after the last step, decoded", images.dtype))
        images, shown = self._finish(images, latents.dtype)
        return self.image_processor.postprocess(images, output_type=output_type, do_denormalize=shown)


def for_frames(frames: int, *parts: Tensor) -> Tensor:
    """What is said of B clips, (B, ...), for each of their frames; the parts stacked, (parts*B*F, ...)."""
    return torch.cat([part.repeat_interleave(frames, dim=0) for part in parts])


def _non_finite(what: str, where: str, dtype: torch.dtype) -> str:
    full = "the weights, or the scheduler's settings, are at fault"
    mend = full if dtype == torch.float32 else "load the model with torch_dtype=torch.float32"
    return f"{what} no longer finite {where} in {str(dtype).removeprefix('torch.')}: {mend}"
