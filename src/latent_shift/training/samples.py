"""Samples of a model in training: clips of fixed prompts from fixed seeds, on one sheet and as one film."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latent_shift.media import Frames, contact_sheet, write_clip, write_image
from latent_shift.training.model_setup import AnyPipeline


def write_samples(pipeline: AnyPipeline, path: Path, prompts: Sequence[str]) -> None:
    """Write a sheet with a clip of each prompt, of the model's own length, a line each; or its images.

    path: of the sheet, a .png; the clips go beside it, side by side in one .gif.
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
        fps = pipeline.video_config.fps
        write_clip(path.with_suffix(".gif"), side_by_side(list(clips)), fps=fps, overwrite=True)


def side_by_side(clips: Sequence[Frames]) -> Frames:
    """Clips (F, H, W, 3) of one size as one clip, in about as many lines as columns, black where none is."""
    columns = math.ceil(math.sqrt(len(clips)))
    missing = [np.zeros_like(clips[0])] * (-len(clips) % columns)
    all_of_them = [*clips, *missing]
    lines = [
        np.concatenate(all_of_them[at : at + columns], axis=2) for at in range(0, len(all_of_them), columns)
    ]
    return np.concatenate(lines, axis=1)
