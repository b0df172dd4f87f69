"""Whether a request for clips can be met, told before any work; and how images part into clips.

Pure functions: they know no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass(frozen=True)
class TextEmbeds:
    """Text that comes encoded: (prompts, L, D) of the prompts and the negative ones, pooled (prompts, P)."""

    text: Tensor | None
    negative: Tensor | None
    pooled: Tensor | None
    negative_pooled: Tensor | None


def count_videos(prompts: int, videos_per_prompt: int, generator: Any) -> int:
    """Prompts times videos a prompt. Raises ValueError where that does not fit the generators."""
    if videos_per_prompt < 1:
        raise ValueError(f"num_videos_per_prompt={videos_per_prompt} must be at least 1")
    videos = prompts * videos_per_prompt
    if isinstance(generator, list) and len(generator) != videos:
        raise ValueError(
            f"{len(generator)} generators for {videos} videos: pass one for each video, or one for all"
        )
    return videos


def latent_size(
    height: int | None, width: int | None, scale: int, own: int | tuple[int, int]
) -> tuple[int, int]:
    """Height and width in latent pixels of `scale` pixels each, by default the U-Net's own.

    Raises ValueError for a size that is no multiple of the scale.
    """
    defaults = (own, own) if isinstance(own, int) else own
    size = []
    for name, pixels, default in zip(("height", "width"), (height, width), defaults, strict=True):
        if pixels is not None and pixels % scale != 0:
            below = pixels // scale * scale
            near = f"{below} or {below + scale}" if below else str(scale)
            raise ValueError(f"{name}={pixels} must be a multiple of {scale} for this model: try {near}")
        size.append(default if pixels is None else pixels // scale)
    return size[0], size[1]


def check_output(output_type: str, decode_chunk_size: int | None) -> None:
    """Raise ValueError for an unknown type of output, or chunks of no frame."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type={output_type!r} is unknown: choose one of {', '.join(OUTPUT_TYPES)}")
    if decode_chunk_size is not None and decode_chunk_size < 1:
        raise ValueError(f"decode_chunk_size={decode_chunk_size} must be at least 1 frame")


def by_clip(images: Any, frames: int) -> Any:
    """Part B*F images into clips of F: a list into lists, an array or tensor by its first axis."""
    if isinstance(images, list):
        return [images[first : first + frames] for first in range(0, len(images), frames)]
    return images.reshape(-1, frames, *images.shape[1:])
