"""Samples of a training: clips or images of fixed prompts, as pictures that people look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latent_shift.media import MAX_RATES, Frames, contact_sheet, write_clip, write_image
from latent_shift.training.model_setup import AnyPipeline


def write_samples(pipeline: AnyPipeline, path: Path, prompts: Sequence[str]) -> None:
    """Write a sheet with a clip of each prompt, of the model's own length, a line each; or its images.

    path: of the sheet, a .png; the clips go beside it, side by side in one .gif, which shows no more than 50
    frames a second.
    """
    frames = pipeline.video_config.num_frames
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    pipeline.set_progress_bar_config(disable=True)
    result: Any = pipeline(list(prompts), generator=generators, output_type="np")
    clips = (result.frames * 255).round().astype(np.uint8)  # (prompts, F, H, W, 3)
    images = [clips[:, 0]]  # as one clip, in lines of eight
    sheet = contact_sheet(list(clips), list(prompts)) if frames > 1 else contact_sheet(images, columns=8)
    write_image(path, sheet, overwrite=True)
    if frames > 1:
        fps = min(pipeline.video_config.fps, MAX_RATES[".gif"])
        write_clip(path.with_suffix(".gif"), _side_by_side(list(clips)), fps=fps, overwrite=True)


def _side_by_side(clips: Sequence[Frames]) -> Frames:
    """Clips (F, H, W, 3) of one size as one clip, in about as many rows as columns, black where none is."""
    columns = math.ceil(math.sqrt(len(clips)))
    padded = [*clips, *[np.zeros_like(clips[0])] * (-len(clips) % columns)]
    rows = [np.concatenate(padded[at : at + columns], axis=2) for at in range(0, len(padded), columns)]
    return np.concatenate(rows, axis=1)
