"""The interface between the trainer and what it trains: a module with a loss, data, samples and an export.

`build_task(recipe)` gives the task of a recipe; its class is found by name (`tasks/__init__.py`).
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from latent_shift.rng import StepRNG
from latent_shift.training.distributed import check_processes
from latent_shift.training.logging import Report
from latent_shift.training.recipe import Recipe
from latent_shift.training.tasks import TASKS


class Task(nn.Module):
    """A loss and what belongs to it. The trainer updates the parameters that require gradients.

    Subclasses set Config, which describes their part of a recipe, and what the model card says of the model:
    summary, pipeline_tag (of the Hugging Face hub) and usage (lines of Markdown).
    """

    Config: ClassVar[type[Recipe]] = Recipe
    summary: ClassVar[str] = "a model"
    pipeline_tag: ClassVar[str | None] = None
    usage: ClassVar[tuple[str, ...]] = ("A part of a model, or a stage before its clips.",)

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe

    def forward(self, batch: dict[str, Any], rng: StepRNG) -> dict[str, Tensor]:
        """The loss of a batch, "loss", and metrics by name, all scalars. All random numbers come from rng."""
        raise NotImplementedError

    def dataset(self, report: Report) -> Dataset[Any]:
        """The items that the steps see. Long preparations report their progress."""
        raise NotImplementedError

    def validation(self, report: Report) -> Dataset[Any] | None:
        """The items of the recipe's validation, which no step sees; None where the recipe has none."""
        return None

    def inputs(self) -> dict[str, str]:
        """Hashes of what a run goes on with and its checkpoints do not hold, before the first step.

        "frozen": of the weights that are not trained; "clips" and "files": of the user's clips, by names and
        captions, and by the ends of their files.
        """
        found = 0
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                content = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                found = zlib.crc32(content.numpy().data, zlib.crc32(name.encode(), found))
        return {"frozen": f"{found:08x}", **self.recipe.clips_hashes()}

    def samples(self, folder: Path, step: int) -> None:
        """Write pictures of the current state into `folder`, named by the step; by default none."""

    def export(self, folder: Path) -> None:
        """Write the trained model into `folder`."""
        raise NotImplementedError


def build_task(recipe: Recipe) -> Task:
    """Build the task of a recipe, with new weights from the recipe's seed.

    Raises ValueError where folders are missing, data cannot be used, or the launched processes cannot do what
    the recipe says; all of that before a model is loaded. Raises ValueError for parts that do not fit.
    """
    check_processes(recipe)
    recipe.check()
    torch.manual_seed(recipe.seed)
    task: Task = TASKS[recipe.task](recipe)
    return task
