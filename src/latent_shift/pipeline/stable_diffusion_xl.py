"""Text to video in SDXL's layout: two text encoders, and a U-Net that reads pooled text and size ids, too.

The size ids are those of the stock pipeline. No refiner.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from latent_shift.conditioning import PromptEmbeds
from latent_shift.io import warn
from latent_shift.pipeline.base import VideoPipelineMixin
from latent_shift.pipeline.inputs import check_clip_skip
from latent_shift.prompts import Texts
from latent_shift.video_config import UNTUNED_XL


class LatentShiftXLPipeline(VideoPipelineMixin, StableDiffusionXLPipeline):
    """Text to video by an SDXL model with the temporal shift in its U-Net."""

    stock_class = StableDiffusionXLPipeline
    _untuned = UNTUNED_XL
    _upcast_decoding = True

    def _encode_prompts(
        self,
        prompts: list[str] | None,
        negatives: list[str] | None,
        videos_per_prompt: int,
        given: dict[str, Any],
    ) -> tuple[PromptEmbeds, PromptEmbeds | None]:
        given = {**given, **self._checked_embeds(given)}
        guided, zeros = self.do_classifier_free_guidance, self.config.force_zeros_for_empty_prompt
        if guided and zeros and negatives is None and given["negative_prompt_2"]:
            warn("negative_prompt_2 alone has no effect, as in stock pipelines: pass negative_prompt='', too")
        for encoder in self.text_encoders():
            check_clip_skip(given["clip_skip"], encoder, beyond=1)
        text, negative, pooled, negative_pooled = self.encode_prompt(
            prompts, device=self._execution_device, num_images_per_prompt=videos_per_prompt,
            do_classifier_free_guidance=guided, negative_prompt=negatives, **given,
        )  # fmt: skip
        # Raises where the U-Net reads pooled text of another width, or another number of size ids
        self._get_add_time_ids((0, 0), (0, 0), (0, 0), text.dtype, pooled.shape[-1])
        return PromptEmbeds(text, pooled), PromptEmbeds(negative, negative_pooled) if guided else None

    def _checked_embeds(self, given: dict[str, Any]) -> dict[str, Tensor | None]:
        """The pooled embeddings of `given` on the device, to which stock moves the others only."""
        found: dict[str, Tensor | None] = {}
        for kind in ("", "negative_"):
            rows, pooled = given[f"{kind}prompt_embeds"], given[f"{kind}pooled_prompt_embeds"]
            if rows is not None and given[f"{kind}prompt_2"] is not None:
                raise ValueError(f"{kind}prompt_2 and {kind}prompt_embeds are the same: pass one of them")
            if (rows is None) != (pooled is None):
                raise ValueError(
                    "this model reads prompt_embeds and pooled_prompt_embeds together: pass both"
                )
            if rows is not None and (pooled.ndim != 2 or len(pooled) != len(rows)):
                raise ValueError(
                    f"{kind}pooled_prompt_embeds has the shape {tuple(pooled.shape)}: expected"
                    f" ({len(rows)}, width)"
                )
            found[f"{kind}pooled_prompt_embeds"] = (
                None if pooled is None else pooled.to(self._execution_device)
            )
        return found

    def _second_prompts(
        self, preprocess: Callable[..., Any], count: int, prompt: Texts, negative: Texts
    ) -> tuple[list[str] | None, list[str] | None]:
        listed = {"prompt_2": prompt, "negative_prompt_2": negative}
        for name, texts in listed.items():
            listed[name] = [texts] * count if isinstance(texts, str) else texts and list(texts)
            if texts is not None and len(listed[name] or ()) != count:
                raise ValueError(
                    f"{len(texts)} texts of {name} for {count} prompts: pass one, or one for each"
                )
        return preprocess(
            self._tokenizers()[-1], prompts=listed["prompt_2"], negatives=listed["negative_prompt_2"]
        )

    def _size_ids(
        self, pixels: tuple[int, int], sizes: dict[str, tuple[int, int] | None]
    ) -> list[list[int]] | None:
        for name, size in sizes.items():
            if size is not None and not (
                isinstance(size, (tuple, list))
                and len(size) == 2
                and all(isinstance(one, Integral) for one in size)
            ):
                raise ValueError(f"{name}={size!r}: expected two whole numbers, as (height, width)")

        def ids(kind: str) -> list[int]:
            parts = (f"{kind}original_size", f"{kind}crops_coords_top_left", f"{kind}target_size")
            defaults = (pixels, (0, 0), pixels)
            return [one for name, own in zip(parts, defaults, strict=True) for one in sizes[name] or own]

        has_negative = (
            sizes["negative_original_size"] is not None and sizes["negative_target_size"] is not None
        )
        guided = self.do_classifier_free_guidance
        return [ids("negative_"), ids("")] if has_negative and guided else [ids("")]

    def _check_safety(self, images: Tensor, dtype: torch.dtype) -> tuple[Tensor, list[bool] | None]:
        return images if self.watermark is None else self.watermark.apply_watermark(images), None
