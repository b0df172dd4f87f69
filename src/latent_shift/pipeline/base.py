"""Text to video by diffusers pipelines with the temporal shift: the part that both layouts share.

Settings of the shift, loading and saving, and the call: checks, denoising of all frames together, decoding in
chunks. Encoding text, offload and slicing are those of the stock pipeline that a subclass adds.

Shapes: B videos (prompts x videos per prompt), F frames, C latent channels, h x w latent pixels, H x W
pixels. Frames ride in the batch, those of one clip adjacent: (B*F, C, h, w).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from inspect import signature
from threading import Lock
from typing import Any

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Generator, Tensor

from latent_shift.autoencoder import decode_latents
from latent_shift.conditioning import PromptEmbeds, add_frame_positions, repeat_per_frame, stack_embeds
from latent_shift.frame_blocks import block_size, predict_in_blocks
from latent_shift.io import warn
from latent_shift.noise import draw_noise, repeat_generator_per_frame
from latent_shift.pipeline.folders import FolderMixin
from latent_shift.pipeline.inputs import (
    check_embeds,
    check_output,
    count_videos,
    latent_size,
    set_timesteps,
    split_into_clips,
    timesteps_until,
)
from latent_shift.pipeline.shortcuts import EVERYWHERE, Forecast, is_inside
from latent_shift.prompts import Texts, preprocess_prompts, validate_prompts
from latent_shift.text_attention import ClipText, attending_to
from latent_shift.unet import override_num_frames, override_padding, shift_options

# Latent pixels that go through the U-Net together, of all frames and both halves of guidance; a clip is never
# divided. A clip of 16 frames of 1024 x 1024 pixels, or four of 512 x 512, under guidance.
LATENT_PIXELS_AT_ONCE = 2**19

# Pixels decoded together: 64 frames of 64 x 64, 4 of 256 x 256, 1 of 512 x 512, which take 0.4 GiB of
# Stable Diffusion's autoencoder in half precision, whatever the length of the clip.
DECODED_PIXELS = 2**18

# Frames of a block, for models of shorter clips, too: with fewer, small convolutions are slow.
SHORT_CLIP = 16

# Tokenizers hold the padding and truncation of the latest call: threads that share one take turns.
_ENCODING = Lock()

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
    nsfw_content_detected: B lists of F flags of the safety checker; None where it did not look.
    """

    frames: list[list[Image.Image]] | np.ndarray | Tensor
    nsfw_content_detected: list[list[bool]] | None = None


class VideoPipelineMixin(FolderMixin):
    """Text to video with a U-Net that shifts over frames; a subclass adds the stock pipeline of a layout."""

    _upcast_decoding = False  # of the layout: whether a float16 autoencoder may decode in float32
    _warned_of_frames = False
    _block: int | None = None  # frames that pass the U-Net together in the current call; None: all
    _frame_positions = _loop = False  # of the current call
    # In callbacks: the scheduler's estimate of the clean latents (B*F, C, h, w); the noisy where it has none
    estimate: Tensor | None = None
    _guidance_interval = EVERYWHERE  # noise levels of the current call that are guided
    _forecast_threshold = 0.0  # of the current call

    @abstractmethod
    def _encode_prompts(
        self,
        prompts: list[str] | None,
        negatives: list[str] | None,
        videos_per_prompt: int,
        given: dict[str, Any],
    ) -> tuple[PromptEmbeds, PromptEmbeds | None]:
        """Embeddings of B prompts and, under guidance, of their negative prompts.

        given: further keywords of SDXL's `encode_prompt`: text that comes encoded, prompts for the second
        text encoder, the scale of LoRA layers and the layers to skip.
        """

    def _second_prompts(
        self, preprocess: Callable[..., Any], count: int, prompt: Texts, negative: Texts
    ) -> tuple[list[str] | None, list[str] | None]:
        """Prompts and negative prompts for the second text encoder, `count` each; None: those of the first.

        preprocess: `preprocess_prompts` with the settings of this call.
        """
        self._refuse_xl(prompt_2=prompt, negative_prompt_2=negative)
        return None, None

    def _size_ids(
        self, pixels: tuple[int, int], sizes: dict[str, tuple[int, int] | None]
    ) -> list[list[int]] | None:
        """Six size ids, or one such list for each half of guidance; None: of an uncropped original.

        pixels: height and width of the frames. sizes: the keywords of the call.
        """
        self._refuse_xl(**sizes)
        return None

    def _refuse_xl(self, **keywords: Any) -> None:
        for name in (name for name, value in keywords.items() if value is not None):
            raise ValueError(f"{name} are for models of SDXL's layout: this one reads none")

    @abstractmethod
    def _check_safety(self, images: Tensor, dtype: torch.dtype) -> tuple[Tensor, list[bool] | None]:
        """Images (B*F, 3, H, W) to show, and the safety checker's flags, if any. dtype: of the latents."""

    @torch.no_grad()
    def __call__(
        self,
        prompt: Texts = None,
        *,
        prompt_2: Texts = None,
        negative_prompt: Texts = None,
        negative_prompt_2: Texts = None,
        num_frames: int | None = None,
        fps: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
        denoising_end: float | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        forecast_threshold: float | None = None,
        num_videos_per_prompt: int = 1,
        num_images_per_prompt: int = 1,
        eta: float | None = None,
        generator: Generator | list[Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        ip_adapter_image: Any = None,
        ip_adapter_image_embeds: list[Tensor] | None = None,
        output_type: str = "pil",
        loop: bool = False,
        frames_per_block: int | None = None,
        decode_chunk_size: int | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        original_size: tuple[int, int] | None = None,
        crops_coords_top_left: tuple[int, int] | None = None,
        target_size: tuple[int, int] | None = None,
        negative_original_size: tuple[int, int] | None = None,
        negative_crops_coords_top_left: tuple[int, int] | None = None,
        negative_target_size: tuple[int, int] | None = None,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_dict: bool = True,
    ) -> LatentShiftPipelineOutput | tuple:
        """Generate clips from prompts, the clips of one prompt adjacent; one frame equals the stock image.

        Args:
            prompt, negative_prompt: a text, or one per prompt. Warns (UserWarning) about text that the text
                encoder truncates or does not know; words outside a closed vocabulary are left out.
            prompt_2, negative_prompt_2: the same for the second text encoder, in SDXL's layout.
            num_frames, fps, height, width, num_inference_steps, guidance_scale, guidance_rescale, eta: ranges
                and units as in `VideoConfig`; None takes the model's own. fps matters only to models tuned
                with it. eta: fresh noise in every step, correlated between frames as the initial noise.
            guidance_interval: lowest and highest noise level that are guided, as parts of the schedule: 0 is
                no noise, 1 all noise. Steps outside take half of the work (arXiv 2404.07724).
            forecast_threshold: how wrong, as a part of the clean clip, the forecasts of steps may be in all
                before a step is computed again; 0 computes every step. See `pipeline/shortcuts.py`.
            timesteps, sigmas: in place of num_inference_steps, for schedulers that take them.
            num_videos_per_prompt, num_images_per_prompt: clips of each prompt, at least 1; the same by two
                names.
            generator: one per video, so that its noise depends on this one only; or one for all.
            latents: initial noise of unit variance, (B, F, C, h, w) or (B*F, C, h, w).
            prompt_embeds, negative_prompt_embeds: (prompts, L, D) in place of texts.
            pooled_prompt_embeds, negative_pooled_prompt_embeds: (prompts, P), with them in SDXL's layout.
            ip_adapter_image, ip_adapter_image_embeds: the same for all frames of all clips.
            denoising_end, original_size, crops_coords_top_left, target_size, negative_original_size,
                negative_crops_coords_top_left, negative_target_size: as in stock, in SDXL's layout.
            cross_attention_kwargs, clip_skip: as in the stock pipeline.
            output_type: "pil", "np", "pt" or "latent".
            loop: whether the last frame of a clip precedes its first one, for the shift, the noise and the
                frame positions. Rolling the noise over frames then rolls the clip.
            frames_per_block: frames of a clip that pass the U-Net together; a longer clip passes in blocks,
                so that memory does not grow with its length. The result is the same but for rounding. By
                default all frames of a short clip, and of a longer one as many as the model's own clips have,
                or fewer where free memory is short. A callback then gets embeddings of one row a clip.
            decode_chunk_size: frames decoded together, by default a block's, and fewer where they are large.
            callback_on_step_end: called as (pipeline, step, timestep, tensors); may return changed tensors,
                and set `pipeline._interrupt` to stop.
            callback_on_step_end_tensor_inputs: names of the tensors that it is given.
            return_dict: false for a tuple: the frames and, where a safety checker looked, its flags.

        Raises:
            ValueError: for a request that cannot be met, or a prompt without a known word.
            NonFiniteError: for NaN or infinite latents or frames.
        """
        # 1. Fill in the model's own settings and check the request before any work
        call = self.video_config.overlaid(
            num_frames=num_frames, fps=fps, height=height, width=width, guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps, guidance_rescale=guidance_rescale, eta=eta,
            guidance_interval=guidance_interval, forecast_threshold=forecast_threshold,
        )  # fmt: skip
        self._guidance_interval, self._forecast_threshold = call.guidance_interval, call.forecast_threshold
        self._guidance_scale, self._guidance_rescale = call.guidance_scale, call.guidance_rescale
        self._cross_attention_kwargs, self._clip_skip = cross_attention_kwargs, clip_skip
        self._denoising_end = denoising_end
        frames, scale = call.num_frames, self.vae_scale_factor
        size = latent_size(call.height, call.width, scale, self.unet.config.sample_size)
        count, prompts, negatives = validate_prompts(prompt, negative_prompt, prompt_embeds)
        check_embeds(
            negatives, prompt_embeds, negative_prompt_embeds, ip_adapter_image, ip_adapter_image_embeds
        )
        per_prompt = num_videos_per_prompt if num_images_per_prompt == 1 else num_images_per_prompt
        videos = count_videos(count, per_prompt, generator)
        shape = (videos, frames, self.unet.config.in_channels, *size)
        pixels = (size[0] * scale, size[1] * scale)
        size_ids = self._size_ids(pixels, {
            "original_size": original_size, "crops_coords_top_left": crops_coords_top_left,
            "target_size": target_size, "negative_original_size": negative_original_size,
            "negative_crops_coords_top_left": negative_crops_coords_top_left,
            "negative_target_size": negative_target_size,
        })  # fmt: skip
        check_output(output_type, decode_chunk_size, frames_per_block)
        if loop and frames == 1:
            raise ValueError("loop=True: one frame is no loop; pass num_frames=2 or more")
        self._loop = loop
        self._block = self._choose_block(frames_per_block, frames, size)
        self._warn_of_differing_frames(frames)
        # 2. Encode the text once per prompt; negative prompts come first in the batch of guidance
        appended_fps = call.fps if call.append_fps_to_caption and frames > 1 else None
        preprocess = partial(preprocess_prompts, vocabulary=call.closed_vocabulary, fps=appended_fps)
        with _ENCODING:
            prompts, negatives = preprocess(self._tokenizers()[0], prompts=prompts, negatives=negatives)
            second, second_negative = self._second_prompts(preprocess, count, prompt_2, negative_prompt_2)
            embeds, negative_embeds = self._encode_prompts(prompts, negatives, per_prompt, {
                "prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds,
                "pooled_prompt_embeds": pooled_prompt_embeds,
                "negative_pooled_prompt_embeds": negative_pooled_prompt_embeds,
                "prompt_2": second, "negative_prompt_2": second_negative, "clip_skip": clip_skip,
                "lora_scale": (cross_attention_kwargs or {}).get("scale"),
            })  # fmt: skip
        stacked = embeds if negative_embeds is None else stack_embeds(negative_embeds, embeds)
        self._frame_positions = call.frame_position_embedding
        repeats, positions = (frames, self._frame_positions) if self._block is None else (1, False)
        conditioning = repeat_per_frame(
            stacked, repeats, pixels, frame_positions=positions, loop=loop, size_ids=size_ids
        )
        text = ClipText(conditioning.text, 1 if call.frame_position_embedding else frames)
        tensors: dict[str, Any] = {"prompt_embeds": conditioning.text}  # a callback may ask for each by name
        if negative_embeds is not None:
            tensors["negative_prompt_embeds"] = conditioning.text.chunk(2)[0]
        if conditioning.added is not None:
            tensors["add_text_embeds"] = conditioning.added["text_embeds"]
            tensors["add_time_ids"] = conditioning.added["time_ids"]
        if ip_adapter_image is not None or ip_adapter_image_embeds is not None:
            if self.unet.config.encoder_hid_dim_type != "ip_image_proj":
                raise ValueError("an image is for IP adapters, and there is none: call load_ip_adapter first")
            images = self.prepare_ip_adapter_image_embeds(
                ip_adapter_image, ip_adapter_image_embeds, self._execution_device, videos,
                self.do_classifier_free_guidance,
            )  # fmt: skip
            tensors["image_embeds"] = [image.repeat_interleave(repeats, dim=0) for image in images]
        # 3. Prepare the timesteps and the noise of each clip
        set_timesteps(
            self.scheduler,
            call.num_inference_steps,
            self._execution_device,
            timesteps=timesteps,
            sigmas=sigmas,
        )
        draw = partial(
            draw_noise, shape, generator, call.shared_noise_ratio, call.progressive_noise_alpha, circular=loop
        )
        if latents is None and frames > 1:
            latents = draw()
        tensors["latents"] = self._initial_latents(shape, latents, generator, conditioning.text.dtype)
        # 4. Denoise all frames of each step, together or in blocks; a model's own eta is for clips only
        step_kwargs = self._scheduler_step_kwargs(
            generator, frames, call.eta if frames > 1 else eta or 0.0, draw
        )
        is_circular = loop and shift_options(self.unet) is not None
        with override_padding(self.unet, "circular") if is_circular else nullcontext():
            self._denoise(
                tensors, text, frames, step_kwargs, callback_on_step_end, callback_on_step_end_tensor_inputs
            )
        # 5. Decode a clip, a block or fewer large frames at a time, or images all at once as stock does
        few = max(1, DECODED_PIXELS // (pixels[0] * pixels[1]))
        chunk = decode_chunk_size or (min(self._block or frames, few) if frames > 1 else videos)
        generators = repeat_generator_per_frame(generator, frames)
        shown, flags = self._decode(tensors["latents"], chunk, output_type, generators)
        self.maybe_free_model_hooks()
        output = LatentShiftPipelineOutput(
            frames=split_into_clips(shown, frames),
            nsfw_content_detected=None if flags is None else split_into_clips(flags, frames),
        )
        return output if return_dict else output.to_tuple()

    def _choose_block(self, given: int | None, frames: int, size: tuple[int, int]) -> int | None:
        """Frames that pass the U-Net together; None: all. given: the caller's; size: in latent pixels."""
        if given is not None:
            return given if given < frames else None
        native = max(SHORT_CLIP, self._stored_config.num_frames)
        return block_size(self.unet, size, frames, native, 2 if self.do_classifier_free_guidance else 1)

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
        tensors: dict[str, Any],
        text: ClipText,
        frames: int,
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
        timesteps = timesteps_until(self.scheduler, self._denoising_end)
        self._interrupt, self._num_timesteps = False, len(timesteps)
        forecast = Forecast(self._forecast_threshold, self.scheduler, len(timesteps))
        for step, timestep in enumerate(self.progress_bar(timesteps)):
            latents = tensors["latents"]
            if tensors["prompt_embeds"] is not text.source:  # changed by a callback
                text = ClipText(tensors["prompt_embeds"], 1)
            with attending_to(text) if self._block is None else nullcontext():
                noise = forecast(
                    step, latents, timestep, partial(self._predict_step, latents, timestep, tensors, frames)
                )
            stepped = self.scheduler.step(noise, timestep, latents, **step_kwargs(), return_dict=False)
            latents = stepped[0]
            if not torch.isfinite(latents).all():
                where = f"after step {step + 1} of {self._num_timesteps} (timestep {int(timestep)})"
                raise NonFiniteError(_non_finite("latents are", where, latents.dtype))
            tensors["latents"] = latents
            self.estimate = stepped[1] if len(stepped) > 1 and stepped[1].shape == latents.shape else latents
            if callback is not None:
                shown = {name: tensors.get(name) for name in callback_inputs}
                guided, before = self.do_classifier_free_guidance, dict(tensors)
                tensors.update(callback(self, step, timestep, shown) or {})
                if guided and not self.do_classifier_free_guidance:
                    _end_guidance(tensors, before)
            if self.interrupt:
                break
        self.estimate = None

    def _predict_step(
        self, latents: Tensor, timestep: Tensor, tensors: dict[str, Any], frames: int
    ) -> Tensor:
        """The prediction for latents (B*F, C, h, w), guided where the noise level is in the interval."""
        guided = self.do_classifier_free_guidance
        if guided and not is_inside(self._guidance_interval, timestep, self.scheduler):
            halved = {name: _text_half(tensors[name]) for name in _CONDITIONS if name in tensors}
            return self._predict(latents, timestep, halved, frames, guided=False)
        return self._predict(latents, timestep, tensors, frames, guided=guided)

    def _predict(
        self, latents: Tensor, timestep: Tensor, tensors: dict[str, Any], frames: int, *, guided: bool
    ) -> Tensor:
        """The prediction for latents (B*F, C, h, w), whole clips at a time, few enough for memory."""
        halves = 2 if guided else 1
        scaled = self.scheduler.scale_model_input(torch.cat([latents] * halves), timestep)
        pixels = halves * (self._block or frames) * latents.shape[-2] * latents.shape[-1]
        clips = max(1, LATENT_PIXELS_AT_ONCE // pixels)
        inputs = {name: tensors[name] for name in _CONDITIONS if name in tensors}
        of_clip = frames if self._block is None else 1  # rows of a condition
        parts = []
        for first in range(0, len(latents) // frames, clips):
            rows, given = (slice(first * each, (first + clips) * each) for each in (frames, of_clip))
            parts.append(
                self._predict_group(
                    _rows(scaled, rows, halves),
                    timestep,
                    _rows(inputs, given, halves),
                    frames,
                    guided=guided,
                )
            )
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _predict_group(
        self, sample: Tensor, timestep: Tensor, inputs: dict[str, Any], frames: int, *, guided: bool
    ) -> Tensor:
        """As `_predict`, for a sample with both halves of guidance: (2*N*F, C, h, w)."""
        text = inputs["prompt_embeds"]
        added = {new: inputs[old] for old, new in _CONDITIONS.items() if new and old in inputs}
        guidance_embedding = None
        if self.unet.config.time_cond_proj_dim is not None:  # a U-Net distilled to know its guidance
            scale = torch.tensor(self.guidance_scale - 1).repeat(len(text))
            width = self.unet.config.time_cond_proj_dim
            guidance_embedding = self.get_guidance_scale_embedding(scale, embedding_dim=width).to(sample)
        conditions = {"timestep_cond": guidance_embedding, "added_cond_kwargs": added or None}
        if self._block is not None:
            prediction = predict_in_blocks(
                self.unet, sample, timestep, partial(self._text_of_frames, text, frames), num_frames=frames,
                block=self._block, by_clip=conditions, cross_attention_kwargs=self.cross_attention_kwargs,
            )  # fmt: skip
        else:
            is_shifting = shift_options(self.unet) is not None
            with override_num_frames(self.unet, frames) if is_shifting else nullcontext():
                prediction = self.unet(
                    sample, timestep, encoder_hidden_states=text, return_dict=False,
                    cross_attention_kwargs=self.cross_attention_kwargs, **conditions,
                )[0]  # fmt: skip
        if not guided:
            return prediction
        without_text, with_text = prediction.chunk(2)
        prediction = without_text + self.guidance_scale * (with_text - without_text)
        if self.guidance_rescale > 0:
            prediction = rescale_noise_cfg(prediction, with_text, guidance_rescale=self.guidance_rescale)
        return prediction

    @torch.no_grad()
    def decode_in_parts(self, latents: Tensor, generator: Any = None) -> Iterator[np.ndarray]:
        """Decode latents (F, C, h, w) of one clip, a few at a time: frames (n, H, W, 3), floats in 0..1.

        generator: for decoders that draw noise. Raises NonFiniteError for NaN or infinite frames.
        """
        pixels = latents.shape[-2] * latents.shape[-1] * self.vae_scale_factor**2
        chunk = min(SHORT_CLIP, max(1, DECODED_PIXELS // pixels))
        for part in latents.split(chunk):
            yield np.asarray(self._decode(part, chunk, "np", generator)[0])
        self.maybe_free_model_hooks()

    def _text_of_frames(self, text: Tensor, num_frames: int, frames: list[int]) -> Tensor:
        """Text (B*len, L, D) of some frames of clips that have the text (B, L, D)."""
        rows = text.repeat_interleave(len(frames), dim=0)
        if not self._frame_positions:
            return rows
        return add_frame_positions(rows, num_frames, frames, loop=self._loop)

    def _decode(
        self, latents: Tensor, chunk: int, output_type: str, generator: Any
    ) -> tuple[list[Image.Image] | np.ndarray | Tensor, list[bool] | None]:
        """Images of latents (B*F, C, h, w), `chunk` at a time, and the flags of the safety checker."""
        if output_type == "latent":
            return latents, None
        images = decode_latents(self.vae, latents, chunk, upcast=self._upcast_decoding, generator=generator)
        if not torch.isfinite(images).all():
            raise NonFiniteError(_non_finite("frames are", "after the last step, decoded", images.dtype))
        images, flags = self._check_safety(images, latents.dtype)
        if flags is not None and any(flags):
            warn(f"the safety checker blackened {sum(flags)} of {len(flags)} frames")
        denormalize = None if flags is None else [not flag for flag in flags]
        shown = self.image_processor.postprocess(images, output_type=output_type, do_denormalize=denormalize)
        return shown, flags


# Tensors of one row a frame that condition the U-Net, by their names in callbacks, and which of its added
# conditions they are; None: its text.
_CONDITIONS = {
    "prompt_embeds": None,
    "add_text_embeds": "text_embeds",
    "add_time_ids": "time_ids",
    "image_embeds": "image_embeds",
}


def _rows(value: Any, rows: slice, halves: int) -> Any:
    """The rows of each half of a tensor (halves * N, ...), or of the tensors of a mapping or a list."""
    if isinstance(value, dict):
        return {name: _rows(each, rows, halves) for name, each in value.items()}
    if isinstance(value, list):
        return [_rows(each, rows, halves) for each in value]
    return value.unflatten(0, (halves, -1))[:, rows].flatten(0, 1)


def _end_guidance(tensors: dict[str, Any], before: dict[str, Any]) -> None:
    """Take the half of each condition that belongs to the text, where a callback has ended guidance.

    Callbacks of diffusers (`SDCFGCutoffCallback`) leave the last row, right for one image.
    """
    for name in (name for name in _CONDITIONS if name in tensors):
        old = before[name]
        if isinstance(old, list) or len(tensors[name]) != len(old) // 2:
            tensors[name] = _text_half(old)


def _text_half(value: Any) -> Any:
    """Of a condition of both halves of guidance, or a list of such, the half of the text."""
    return [one.chunk(2)[1] for one in value] if isinstance(value, list) else value.chunk(2)[1]


def _non_finite(subject: str, where: str, dtype: torch.dtype) -> str:
    full = "the weights, or the scheduler's settings, are at fault"
    mend = full if dtype == torch.float32 else "load the model with torch_dtype=torch.float32"
    return f"{subject} no longer finite {where} in {str(dtype).removeprefix('torch.')}: {mend}"
