"""Text to video by diffusers pipelines with the temporal shift: the part that both layouts share.

Settings of the shift, loading and saving, and the call: checks, denoising of all frames together, decoding in
chunks. Encoding text, offload and slicing are those of the stock pipeline that a subclass adds.

Shapes: B videos (prompts x videos per prompt), F frames, C latent channels, h x w latent pixels, H x W
pixels. Frames ride in the batch, those of one clip adjacent: (B*F, C, h, w).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Generator, Tensor

from latent_shift.conditioning import PromptEmbeds, repeat_per_frame, stack_embeds
from latent_shift.frame_blocks import block_size
from latent_shift.io import warn
from latent_shift.noise import draw_noise, repeat_generator_per_frame
from latent_shift.pipeline.decoding import SHORT_CLIP, DecodingMixin, frames_at_once
from latent_shift.pipeline.denoising import DenoisingMixin
from latent_shift.pipeline.inputs import (
    check_embeds,
    check_generators,
    check_image_embeds,
    check_output,
    latent_size,
    set_timesteps,
    split_into_clips,
    videos_per_prompt,
)
from latent_shift.prompts import Texts, preprocess_prompts, validate_prompts
from latent_shift.text_attention import ClipText
from latent_shift.unet import override_padding, shift_options

# Tokenizers hold the padding and truncation of the latest call: threads that share one take turns.
_ENCODING = Lock()


@dataclass
class LatentShiftPipelineOutput(BaseOutput):
    """The clips, one entry per video.

    frames: by `output_type`, "pil": B lists of F images; "np": (B, F, H, W, 3) and "pt": (B, F, 3, H, W),
    floats in 0..1; "latent": (B, F, C, h, w).
    nsfw_content_detected: B lists of F flags of the safety checker; None where it did not look.
    """

    frames: list[list[Image.Image]] | np.ndarray | Tensor
    nsfw_content_detected: list[list[bool]] | None = None


class VideoPipelineMixin(DenoisingMixin, DecodingMixin):
    """Text to video with a U-Net that shifts over frames; a subclass adds the stock pipeline of a layout."""

    _warned_of_frames = False

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
                encoder truncates or does not know; words outside a closed vocabulary are left out. Also about
                a negative prompt where guidance_scale is 1 or less, which reads none.
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
        width = self.unet.config.encoder_hid_dim or self.unet.config.cross_attention_dim
        check_embeds(count, width, negatives, prompt_embeds, negative_prompt_embeds)
        check_image_embeds(ip_adapter_image, ip_adapter_image_embeds)
        per_prompt = videos_per_prompt(num_videos_per_prompt, num_images_per_prompt)
        generator = list(generator) if isinstance(generator, tuple) else generator
        videos = count * per_prompt
        check_generators(generator, videos)
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
        self._warn_of_negatives_without_guidance(negative_prompt, negative_prompt_2, negative_prompt_embeds)
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
        few = min(self._block or frames, frames_at_once(pixels)) if frames > 1 else videos
        chunk = decode_chunk_size or few
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
        halves = 2 if self.do_classifier_free_guidance else 1
        block = block_size(self.unet, size, frames, native, halves, self._execution_device)
        if block is not None and hasattr(self.unet, "_orig_mod"):
            warn(f"{frames} frames pass the U-Net in blocks, which does so as if it were not compiled")
        return block

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

    def _warn_of_negatives_without_guidance(self, *negatives: Texts | Tensor) -> None:
        """Warn about negative prompts in a call without guidance, which reads none."""
        if self.do_classifier_free_guidance or not any(map(_says_something, negatives)):
            return
        reason = f"guidance_scale is {self.guidance_scale:g}: pass more than 1 (--guidance) to make it count"
        if self.unet.config.time_cond_proj_dim is not None:
            reason = "this U-Net is distilled from guided steps, and reads none"
        warn(f"the negative prompt has no effect, for {reason}")

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


def _says_something(negative: Texts | Tensor) -> bool:
    """Whether a negative prompt is more than the empty one, which stands where there is none."""
    if negative is None or isinstance(negative, Tensor):
        return negative is not None
    return any(map(str.strip, [negative] if isinstance(negative, str) else negative))
