"""Samples of a model in training: clips of fixed prompts from fixed seeds, on one sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from latent_shift.data.moving_shapes import caption, draw_scenes, image_caption
from latent_shift.media import contact_sheet, write_image
from latent_shift.pipeline import LatentShiftPipeline

_SEED = 77  # of the scenes whose captions are the prompts; no training world should have it


def write_samples(pipeline: LatentShiftPipeline, path: Path, count: int = 8) -> None:
    """Write a sheet of `count` clips of the model's own length, a line each, or four times as many images."""
    frames = pipeline.video_settings.num_frames
    count = count if frames > 1 else 4 * count
    scenes = draw_scenes(_SEED, range(count), level=1)
    prompts = [caption(scene) if frames > 1 else image_caption(scene) for scene in scenes]
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    pipeline.set_progress_bar_config(disable=True)
    result: Any = pipeline(prompts, generator=generators, output_type="np")
    clips = (result.frames * 255).round().astype(np.uint8)  # (count, F, H, W, 3)
    images = [clips[:, 0]]  # as one clip, in lines of eight
    sheet = contact_sheet(list(clips), prompts) if frames > 1 else contact_sheet(images, columns=8)
    write_image(path, sheet, overwrite=True)
