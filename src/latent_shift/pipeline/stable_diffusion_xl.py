"""Clips by a model of SDXL's layout: two text models, and a U-Net told of pooled text and the image's size.

The size conditions are those of the stock pipeline's defaults: an uncropped original of the size asked for
(arXiv 2307.01952, section 2.2). No refiner.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from latent_shift.pipeline.request import TextEmbeds
from latent_shift.pipeline.sampling import ClipSampling, for_frames


class LatentShiftXLPipeline(ClipSampling, StableDiffusionXLPipeline):
    """Text to video by an SDXL model whose U-Net shifts over frames."""

    stock_class = StableDiffusionXLPipeline

    def _encode(
        self,
        prompts: list[str] | None,
        negatives: list[str] | None,
        embeds: TextEmbeds,
        videos_per_prompt: int,
        frames: int,
        size: tuple[int, int],
    ) -> dict[str, Tensor]:
        if (embeds.text is None) != (embeds.pooled is None) or (
            (embeds.negative is None) != (embeds.negative_pooled is None)
        ):
            raise ValueError("this model reads prompt_embeds and pooled_prompt_embeds together: pass both")
        guided = self.do_classifier_free_guidance
        text, negative, pooled, negative_pooled = self.encode_prompt(
            prompts, None, self._execution_device, videos_per_prompt, guided, negatives,
            prompt_embeds=embeds.text, negative_prompt_embeds=embeds.negative,
            pooled_prompt_embeds=embeds.pooled, negative_pooled_prompt_embeds=embeds.negative_pooled,
        )  # fmt: skip
        ids = self._size_ids(size, text.dtype, pooled.shape[-1]).to(text.device).repeat(len(text), 1)
        if not guided:
            stacks = {"prompt_embeds": [text], "add_text_embeds": [pooled], "add_time_ids": [ids]}
        else:
            stacks = {
                "prompt_embeds": [negative, text],
                "add_text_embeds": [negative_pooled, pooled],
                "add_time_ids": [ids, ids],
            }
        return {name: for_frames(frames, *parts) for name, parts in stacks.items()}

    def _size_ids(self, size: tuple[int, int], dtype: torch.dtype, pooled_width: int) -> Tensor:
        """Original size, crop and target size in pixels, (1, 6)."""
        return self._get_add_time_ids(size, (0, 0), size, dtype, text_encoder_projection_dim=pooled_width)

    def _added_conditions(self, tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
        return {"text_embeds": tensors["add_text_embeds"], "time_ids": tensors["add_time_ids"]}

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """SDXL's first autoencoder overflows in float16, and is run in float32 as the stock pipeline does."""
        upcast = self.vae.dtype == torch.float16 and self.vae.config.force_upcast
        if upcast:
            self.vae.to(dtype=torch.float32)
        try:
            yield
        finally:
            if upcast:
                self.vae.to(dtype=torch.float16)

    def _unscaled(self, latents: Tensor) -> Tensor:
        config = self.vae.config
        if config.latents_mean is None or config.latents_std is None:
            return super()._unscaled(latents)
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1).to(latents)
            for values in (config.latents_mean, config.latents_std)
        )
        return latents * std / config.scaling_factor + mean

    def _finish(self, images: Tensor, dtype: Any) -> tuple[Tensor, list[bool] | None]:
        return images if self.watermark is None else self.watermark.apply_watermark(images), None
