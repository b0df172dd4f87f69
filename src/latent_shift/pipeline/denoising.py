"""The loop over noise levels: all frames of a step together, whole clips at a time, or in blocks of frames.

Shapes: B videos, F frames, C latent channels, h x w latent pixels. Frames ride in the batch, those of one
clip adjacent: (B*F, C, h, w). Under guidance the half without the text comes first: (2*B*F, C, h, w).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from inspect import signature
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from latent_shift.conditioning import add_frame_positions
from latent_shift.frame_blocks import predict_in_blocks
from latent_shift.noise import repeat_generator_per_frame
from latent_shift.pipeline.finite import check_finite
from latent_shift.pipeline.folders import FolderMixin
from latent_shift.pipeline.inputs import timesteps_until
from latent_shift.pipeline.shortcuts import EVERYWHERE, Forecast, check_interval, is_inside
from latent_shift.text_attention import ClipText, attending_to
from latent_shift.unet import override_num_frames, shift_options

# Latent pixels that go through the U-Net together, of all frames and both halves of guidance; a clip is never
# divided. A clip of 16 frames of 1024 x 1024 pixels, or four of 512 x 512, under guidance.
LATENT_PIXELS_AT_ONCE = 2**19

# From a zero terminal SNR diffusers' DDIM takes, in its first step, the root of the variance left beside the
# fresh noise, which rounding may make negative at eta = 1.
_MAX_ETA = 1 - 1e-6

# Tensors of one row a frame that condition the U-Net, by their names in callbacks, and which of its added
# conditions they are; None: its text.
_CONDITIONS = {
    "prompt_embeds": None,
    "add_text_embeds": "text_embeds",
    "add_time_ids": "time_ids",
    "image_embeds": "image_embeds",
}


class DenoisingMixin(FolderMixin):
    """Denoises the latents of clips by a U-Net that shifts over frames; a subclass adds the scheduler."""

    # Of the current call
    _block: int | None = None  # frames that pass the U-Net together; None: all
    _frame_positions = _loop = False
    _guidance_interval = EVERYWHERE  # noise levels that are guided
    _forecast_threshold = 0.0
    # In callbacks: the scheduler's estimate of the clean latents (B*F, C, h, w); the noisy where it has none
    estimate: Tensor | None = None

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
        check_interval(self._guidance_interval, self.scheduler)
        self._interrupt, self._num_timesteps = False, len(timesteps)
        forecast = Forecast(self._forecast_threshold, self.scheduler, len(timesteps))
        for step, timestep in enumerate(self.progress_bar(timesteps)):
            latents = tensors["latents"]
            names = {"prompt_embeds", "negative_prompt_embeds"}  # the second is half of the first
            shown_text = step > 0 and callback is not None and not names.isdisjoint(callback_inputs)
            if tensors["prompt_embeds"] is not text.source or (shown_text and text.may_be_written()):
                text = ClipText(tensors["prompt_embeds"], 1)  # changed by a callback
            with attending_to(text) if self._block is None else nullcontext():
                noise = forecast(
                    step, latents, timestep, partial(self._predict_step, latents, timestep, tensors, frames)
                )
            stepped = self.scheduler.step(noise, timestep, latents, **step_kwargs(), return_dict=False)
            latents = stepped[0]
            where = f"after step {step + 1} of {self._num_timesteps} (timestep {int(timestep)})"
            check_finite(latents, "latents are", where)
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

    def _text_of_frames(self, text: Tensor, num_frames: int, frames: list[int]) -> Tensor:
        """Text (B*len, L, D) of some frames of clips that have the text (B, L, D)."""
        rows = text.repeat_interleave(len(frames), dim=0)
        if not self._frame_positions:
            return rows
        return add_frame_positions(rows, num_frames, frames, loop=self._loop)


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
