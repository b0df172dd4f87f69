"""Inputs of a pipeline call: checks before any work, and the sizes and counts that follow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps
from torch import Tensor

from latent_shift.io import one_line
from latent_shift.model_files import is_flow_matching
from latent_shift.shift import check_count

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def videos_per_prompt(videos: int, images: int) -> int:
    """Clips of each prompt, which has two names. Raises ValueError where these differ, and for none."""
    check_count("num_videos_per_prompt", videos)
    check_count("num_images_per_prompt", images)
    if videos != images and 1 not in (videos, images):
        raise ValueError(
            f"num_videos_per_prompt={videos} and num_images_per_prompt={images} are the same: pass one"
        )
    return max(videos, images)


def check_generators(generator: Any, videos: int) -> None:
    """Raise ValueError for a list of generators that is not one for each video."""
    if isinstance(generator, list) and len(generator) != videos:
        raise ValueError(
            f"{len(generator)} generators for {videos} videos: pass one for each video, or one for all"
        )


def latent_size(
    height: int | None, width: int | None, scale: int, default: int | tuple[int, int] | None
) -> tuple[int, int]:
    """Height and width in latent pixels.

    Args:
        height, width: pixels; None takes the default.
        scale: pixels per latent pixel.
        default: the U-Net's own size in latent pixels; None where it has none.

    Raises:
        ValueError: for a size that is no multiple of the scale.
    """
    defaults = default if isinstance(default, (tuple, list)) else (default, default)
    size: list[int] = []
    for name, pixels, own in zip(("height", "width"), (height, width), defaults, strict=True):
        if pixels is not None and pixels % scale != 0:
            below = pixels // scale * scale
            near = f"{below} or {below + scale}" if below else str(scale)
            raise ValueError(f"{name}={pixels} must be a multiple of {scale} for this model: try {near}")
        if pixels is None and own is None:
            raise ValueError(f"{name} is missing: this model's U-Net has no size of its own")
        size.append(pixels // scale if pixels is not None else int(own or 0))
    return size[0], size[1]


def check_output(output_type: str, decode_chunk_size: int | None, frames_per_block: int | None) -> None:
    """Raise ValueError for an unknown type of output, or chunks or blocks of no frame."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type={output_type!r} is unknown: choose one of {', '.join(OUTPUT_TYPES)}")
    for name, count in (("decode_chunk_size", decode_chunk_size), ("frames_per_block", frames_per_block)):
        if count is not None:
            check_count(name, count)


def check_embeds(
    count: int,
    width: Any,
    negatives: list[str] | None,
    embeds: Tensor | None,
    negative_embeds: Tensor | None,
) -> None:
    """Raise ValueError for negative prompts that come twice, and embeddings that do not fit one another.

    count: of prompts. width: of the text that the U-Net reads, where that is one number. negatives, embeds,
    negative_embeds: negative prompts, embeddings of prompts and of negative prompts, (count, L, width) each.
    """
    if negatives is not None and negative_embeds is not None:
        raise ValueError("negative_prompt and negative_prompt_embeds are the same: pass one of them")
    for name, given in (("prompt_embeds", embeds), ("negative_prompt_embeds", negative_embeds)):
        if given is not None and (
            given.ndim != 3 or len(given) != count or (isinstance(width, int) and given.shape[-1] != width)
        ):
            shape = tuple(given.shape)
            raise ValueError(f"{name} has the shape {shape}: expected ({count}, tokens, {width})")
    if embeds is not None and negative_embeds is not None and embeds.shape != negative_embeds.shape:
        shapes = f"{tuple(embeds.shape)} and {tuple(negative_embeds.shape)}"
        raise ValueError(f"prompt_embeds and negative_prompt_embeds must have one shape, not {shapes}")


def check_image_embeds(image: Any, embeds: list[Tensor] | None) -> None:
    """Raise ValueError for an image of IP adapters that comes twice, and embeddings of other shapes.

    embeds: (copies, images, D) for each adapter.
    """
    if image is not None and embeds is not None:
        raise ValueError("ip_adapter_image and ip_adapter_image_embeds are the same: pass one of them")
    if embeds is not None and not (isinstance(embeds, list) and all(one.ndim in (3, 4) for one in embeds)):
        raise ValueError(
            "ip_adapter_image_embeds must be a list of tensors of 3 or 4 dimensions, one an adapter"
        )


def check_clip_skip(skip: int | None, text_encoder: Any, *, beyond: int) -> None:
    """Raise ValueError for a number of layers to skip that a text encoder does not have.

    beyond: layers that are skipped without it, 1 in SDXL's layout.
    """
    if skip is None or text_encoder is None:
        return
    most = text_encoder.config.num_hidden_layers - beyond
    if isinstance(skip, bool) or not isinstance(skip, int) or not 0 <= skip <= most:
        raise ValueError(f"clip_skip={skip!r}: expected 0 to {most} layers of this text encoder")


def timesteps_until(scheduler: Any, end: float | None) -> Tensor:
    """The scheduler's timesteps up to a share of the process, 0 < end < 1; None, or another share: all."""
    if end is None or not 0 < end < 1:
        return scheduler.timesteps
    trained = scheduler.config.num_train_timesteps
    return scheduler.timesteps[: int((scheduler.timesteps >= round(trained - end * trained)).sum())]


def set_timesteps(
    scheduler: Any,
    steps: int,
    device: torch.device | str | None = None,
    *,
    timesteps: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
) -> None:
    """Set a scheduler's timesteps. Raises ValueError for one of another family, and too many steps for it.

    steps: denoising steps, placed on device. timesteps, sigmas: in their place; ValueError for schedulers
    that do not take them.

    The stock schedulers then leave the schedule, or take two steps at one noise level, which divides by zero.
    """
    if not hasattr(scheduler, "init_noise_sigma") or is_flow_matching(scheduler.config):
        raise ValueError(
            f"{type(scheduler).__name__}, as it is configured, is a scheduler of another family; exchange it"
            " for one of noise or velocity, such as DDIMScheduler"
        )
    trained = scheduler.config.num_train_timesteps
    if timesteps is not None or sigmas is not None:
        if timesteps is not None:
            _check_timesteps(timesteps, trained)
        retrieve_timesteps(scheduler, None, device, timesteps, sigmas)
        return
    reason = ""
    try:
        scheduler.set_timesteps(steps, device=device)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        reason = f": {one_line(error)}"
    else:
        levels = scheduler.sigmas[:-1] if hasattr(scheduler, "sigmas") else scheduler.timesteps
        if scheduler.timesteps.max() < trained and len(levels.unique()) >= min(steps, len(levels)):
            return
    raise ValueError(
        f"{steps} steps: are more than {type(scheduler).__name__} can take on this model's schedule of"
        f" {trained} timesteps; use fewer{reason}"
    )


def _check_timesteps(timesteps: Sequence[int], trained: int) -> None:
    falls = all(first > second for first, second in pairwise(timesteps))
    if not len(timesteps) or not falls or timesteps[0] >= trained or timesteps[-1] < 0:
        shown = str(list(timesteps))[:80]
        raise ValueError(f"timesteps={shown}: expected falling numbers from at most {trained - 1} to 0")


def split_into_clips(images: Any, frames: int) -> Any:
    """Split B*F images into B clips: a list into lists, an array or tensor along its first axis."""
    if isinstance(images, list):
        return [images[first : first + frames] for first in range(0, len(images), frames)]
    return images.reshape(-1, frames, *images.shape[1:])
