"""Clips by a model of the Stable Diffusion 1 and 2 layouts: one text model, an optional safety checker."""

from __future__ import annotations

import os
from typing import Any

from diffusers import StableDiffusionPipeline
from torch import Tensor

from latent_shift.pipeline.request import TextEmbeds
from latent_shift.pipeline.sampling import ClipSampling, for_frames
from latent_shift.pipeline.shifting import read_index
from latent_shift.pipeline.stable_diffusion_xl import LatentShiftXLPipeline


class LatentShiftPipeline(ClipSampling, StableDiffusionPipeline):
    """Text to video by a text-to-image model whose U-Net shifts over frames (arXiv 2304.08477)."""

    stock_class = StableDiffusionPipeline

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Any:
        """Load a folder or hub id; one in SDXL's layout becomes a `LatentShiftXLPipeline`.

        Keywords and errors as in `ShiftedPipeline.from_pretrained`.
        """
        if "text_encoder_2" in read_index(pretrained_model_name_or_path, kwargs):
            return LatentShiftXLPipeline.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    def _encode(
        self,
        prompts: list[str] | None,
        negatives: list[str] | None,
        embeds: TextEmbeds,
        videos_per_prompt: int,
        frames: int,
        size: tuple[int, int],
    ) -> dict[str, Tensor]:
        if embeds.pooled is not None or embeds.negative_pooled is not None:
            raise ValueError("pooled_prompt_embeds are for models of SDXL's layout: this one reads none")
        guided = self.do_classifier_free_guidance
        text, negative = self.encode_prompt(
            prompts, self._execution_device, videos_per_prompt, guided, negatives,
            prompt_embeds=embeds.text, negative_prompt_embeds=embeds.negative,
        )  # fmt: skip
        if not guided:
            return {"prompt_embeds": for_frames(frames, text)}
        return {
            "prompt_embeds": for_frames(frames, negative, text),
            "negative_prompt_embeds": for_frames(frames, negative),
        }

    def _finish(self, images: Tensor, dtype: Any) -> tuple[Tensor, list[bool] | None]:
        images, flagged = self.run_safety_checker(images, images.device, dtype)
        return images, None if flagged is None else [not flag for flag in flagged]
