"""Inputs of a pipeline call: checks before any work, and the sizes and counts that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps
from torch import Tensor

from latent_shift.io import one_line
from latent_shift.model_files import is_flow_matching

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def count_videos(prompts: int, videos_per_prompt: int, generator: Any) -> int:
    """Prompts times videos per prompt. Raises ValueError where that does not fit the generators."""
    if videos_per_prompt < 1:
        raise ValueError(f"num_videos_per_prompt={videos_per_prompt} must be at least 1")
    videos = prompts * videos_per_prompt
    if isinstance(generator, list) and len(generator) != videos:
        raise ValueError(
            f"{len(generator)} generators for {videos} videos: pass one for each video, or one for all"
        )
    return videos


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
    if decode_chunk_size is not None and decode_chunk_size < 1:
        raise ValueError(f"decode_chunk_size={decode_chunk_size} must be at least 1 frame")
    if frames_per_block is not None and frames_per_block < 1:
        raise ValueError(f"frames_per_block={frames_per_block} must be at least 1 frame")


def check_embeds(
    negatives: list[str] | None,
    embeds: Tensor | None,
    negative_embeds: Tensor | None,
    image: Any,
    image_embeds: list[Tensor] | None,
) -> None:
    """Raise ValueError for texts or images that come twice, and embeddings that do not fit one another.

    negatives, embeds, negative_embeds: negative prompts, embeddings of prompts and of negative prompts;
    image, image_embeds: the image of IP adapters, and its embeddings, (copies, images, D) for each adapter.
    """
    if negatives is not None and negative_embeds is not None:
        raise ValueError("negative_prompt and negative_prompt_embeds are the same: pass one of them")
    if embeds is not None and negative_embeds is not None and embeds.shape != negative_embeds.shape:
        shapes = f"{tuple(embeds.shape)} and {tuple(negative_embeds.shape)}"
        raise ValueError(f"prompt_embeds and negative_prompt_embeds must have one shape, not {shapes}")
    if image is not None and image_embeds is not None:
        raise ValueError("ip_adapter_image and ip_adapter_image_embeds are the same: pass one of them")
    if image_embeds is not None and not (
        isinstance(image_embeds, list) and all(one.ndim in (3, 4) for one in image_embeds)
    ):
        raise ValueError(
            "ip_adapter_image_embeds must be a list of tensors of 3 or 4 dimensions, one an adapter"
        )


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
    if timesteps is not None or sigmas is not None:
        retrieve_timesteps(scheduler, None, device, timesteps, sigmas)
        return
    trained, reason = scheduler.config.num_train_timesteps, ""
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


def split_into_clips(images: Any, frames: int) -> Any:
    """Split B*F images into B clips: a list into lists, an array or tensor along its first axis."""
    if isinstance(images, list):
        return [images[first : first + frames] for first in range(0, len(images), frames)]
    return images.reshape(-1, frames, *images.shape[1:])
