"""From a recipe to a trained model: the task's objective, built and given to the loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from latent_shift.training.distributed import check_processes
from latent_shift.training.log import Progress
from latent_shift.training.quiet import quiet_libraries
from latent_shift.training.recipe import (
    AutoencoderRecipe,
    ContrastRecipe,
    ImageRecipe,
    Recipe,
    VideoRecipe,
    WordingRecipe,
)
from latent_shift.training.sources import read_sources, try_clips
from latent_shift.training.tasks.autoencoder import AutoencoderObjective
from latent_shift.training.tasks.denoising import DenoisingObjective
from latent_shift.training.tasks.text_contrastive import WordingObjective
from latent_shift.training.tasks.video_text_contrastive import ContrastObjective
from latent_shift.training.trainer import train


def run(recipe: Recipe, report: Callable[[Progress], None]) -> Path:
    """Train what the recipe says, from its last checkpoint on. Returns the folder of the finished model.

    Raises what the loop raises, and ValueError where a folder that the recipe names is missing, or it
    asks for what the launched processes cannot do.
    """
    _check_folders(recipe)
    check_processes(recipe)
    if isinstance(recipe, AutoencoderRecipe | ImageRecipe | VideoRecipe):
        read_sources(recipe.clips)  # what is wrong with them is told before a model is fetched and loaded
        try_clips(recipe.clips, whole=isinstance(recipe, VideoRecipe))
    torch.manual_seed(recipe.seed)  # the new weights
    with quiet_libraries():
        module = objective(recipe)
    return train(recipe, module, report)


def objective(recipe: Recipe) -> nn.Module:
    """The objective of the recipe's task."""
    if isinstance(recipe, WordingRecipe):
        return WordingObjective(recipe)
    if isinstance(recipe, ContrastRecipe):
        return ContrastObjective(recipe)
    if isinstance(recipe, AutoencoderRecipe):
        return AutoencoderObjective(recipe)
    return DenoisingObjective(recipe)


def _check_folders(recipe: Recipe) -> None:
    parts = {"text": ("text_encoder", "tokenizer"), "autoencoder": ("vae",), "toward.model": ("unet",)}
    parts["init"] = ("vae",) if isinstance(recipe, AutoencoderRecipe) else ("unet",)
    for key, wanted in parts.items():
        folder: object = recipe
        for name in key.split("."):
            folder = getattr(folder, name, None)
        if not isinstance(folder, Path):  # not of this task, or not asked for
            continue
        for part in wanted:
            if not (folder / part).is_dir():
                raise ValueError(f"{key}: {folder} has no {part}/: train the stage before it first")
