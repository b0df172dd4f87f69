"""Text to video in SDXL's layout: two text encoders, and a U-Net that reads pooled text and size ids, too.

The size ids are those of the stock pipeline's defaults. No refiner.
"""

from __future__ import annotations

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from latent_shift.conditioning import PromptEmbeds
from latent_shift.pipeline.base import VideoPipelineMixin


class LatentShiftXLPipeline(VideoPipelineMixin, StableDiffusionXLPipeline):
    """Text to video by an SDXL model with the temporal shift in its U-Net."""

    stock_class = StableDiffusionXLPipeline
    _upcast_decoding = True

    def _encode_prompts(
        self,
        prompts: list[str] | None,
        negatives: list[str] | None,
        videos_per_prompt: int,
        given: dict[str, Tensor | None],
    ) -> tuple[PromptEmbeds, PromptEmbeds | None]:
        for kind in ("", "negative_"):
            if (given[f"{kind}prompt_embeds"] is None) != (given[f"{kind}pooled_prompt_embeds"] is None):
                raise ValueError(
                    "this model reads prompt_embeds and pooled_prompt_embeds together: pass both"
                )
        guided = self.do_classifier_free_guidance
        text, negative, pooled, negative_pooled = self.encode_prompt(
            prompts, None, self._execution_device, videos_per_prompt, guided, negatives, **given
        )
        # Raises where the U-Net reads pooled text of another width, or another number of size ids
        self._get_add_time_ids((0, 0), (0, 0), (0, 0), text.dtype, pooled.shape[-1])
        return PromptEmbeds(text, pooled), PromptEmbeds(negative, negative_pooled) if guided else None

    def _postprocess(self, images: Tensor, dtype: torch.dtype) -> tuple[Tensor, list[bool] | None]:
        return images if self.watermark is None else self.watermark.apply_watermark(images), None
