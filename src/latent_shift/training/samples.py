"""Samples of a model in training: clips of fixed prompts from fixed seeds, on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latent_shift.data.moving_shapes import caption, draw_scenes, image_caption
from latent_shift.media import contact_sheet, write_image
from latent_shift.training.base_models import AnyPipeline

_SEED = 77  # of the scenes whose captions are the prompts; no training world should have it


def write_samples(pipeline: AnyPipeline, path: Path, prompts: Sequence[str]) -> None:
    """Write a sheet with a clip of each prompt, of the model's own length, a line each; or its images."""
    frames = pipeline.video_settings.num_frames
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    pipeline.set_progress_bar_config(disable=True)
    result: Any = pipeline(list(prompts), generator=generators, output_type="np")
    clips = (result.frames * 255).round().astype(np.uint8)  # (prompts, F, H, W, 3)
    images = [clips[:, 0]]  # as one clip, in lines of eight
    sheet = contact_sheet(list(clips), list(prompts)) if frames > 1 else contact_sheet(images, columns=8)
    write_image(path, sheet, overwrite=True)


def world_prompts(*, images: bool) -> list[str]:
    """Eight prompts of clips of Moving Shapes that no training sees, or 32 of images."""
    scenes = draw_scenes(_SEED, range(32 if images else 8), level=1)
    return [image_caption(scene) if images else caption(scene) for scene in scenes]
