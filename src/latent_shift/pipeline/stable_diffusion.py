"""Text to video in the Stable Diffusion 1 and 2 layouts: one text encoder, an optional safety checker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from latent_shift.conditioning import PromptEmbeds
from latent_shift.pipeline.base import VideoPipelineMixin
from latent_shift.pipeline.folders import read_index
from latent_shift.pipeline.inputs import check_clip_skip
from latent_shift.pipeline.stable_diffusion_xl import LatentShiftXLPipeline

_CLIP_TYPES = ("clip", "clip_text_model")


class LatentShiftPipeline(VideoPipelineMixin, StableDiffusionPipeline):
    """Text to video by a text-to-image model with the temporal shift in its U-Net (arXiv 2304.08477)."""

    stock_class = StableDiffusionPipeline

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Any:
        """Load a folder or hub id; one in SDXL's layout becomes a `LatentShiftXLPipeline`.

        Keywords and errors as in `VideoPipelineMixin.from_pretrained`.
        """
        if "text_encoder_2" in read_index(pretrained_model_name_or_path, kwargs):
            return LatentShiftXLPipeline.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    def _encode_prompts(
        self,
        prompts: list[str] | None,
        negatives: list[str] | None,
        videos_per_prompt: int,
        given: dict[str, Any],
    ) -> tuple[PromptEmbeds, PromptEmbeds | None]:
        xl_only = {name: given.pop(name) for name in list(given) if "pooled" in name or name.endswith("_2")}
        self._refuse_xl(**xl_only)
        encoder, skip = self.text_encoder, given.get("clip_skip")
        if skip is not None and encoder is not None and encoder.config.model_type not in _CLIP_TYPES:
            raise ValueError(
                f"clip_skip {skip}: is for CLIP's text encoder; this model has a {type(encoder).__name__}"
            )
        check_clip_skip(skip, encoder, beyond=0)
        guided = self.do_classifier_free_guidance
        with _named_text_model(encoder):
            text, negative = self.encode_prompt(
                prompts, self._execution_device, videos_per_prompt, guided, negatives, **given
            )
        return PromptEmbeds(text), PromptEmbeds(negative) if guided else None

    def _check_safety(self, images: Tensor, dtype: torch.dtype) -> tuple[Tensor, list[bool] | None]:
        return self.run_safety_checker(images, images.device, dtype)


@contextmanager
def _named_text_model(encoder: Any) -> Iterator[None]:
    """CLIP's text encoder is its own `text_model`, in which diffusers looks for the final norm.

    From transformers 5 on the two are one, and the name is gone.
    """
    if encoder is None or hasattr(encoder, "text_model"):
        yield
        return
    vars(encoder)["text_model"] = encoder  # beside the modules: nothing is saved or moved twice
    try:
        yield
    finally:
        del vars(encoder)["text_model"]
