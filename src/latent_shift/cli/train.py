"""`latent-shift train RECIPE.yaml`: train as a recipe says; the same command again resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latent_shift.checkpoints.quiet import quiet_libraries
from latent_shift.cli.options import settings_at_home
from latent_shift.cli.output import print_json
from latent_shift.cli.progress import training_bar


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Recipe (docs/training.md).")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Change a key of the recipe.")
    ] = None,
    preset: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="Changes for several recipes; --set comes after them."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe and print all its keys; train nothing.")
    ] = False,
) -> None:
    """Train a model as a recipe says. The same command again resumes from the last checkpoint."""
    quiet_libraries()
    from latent_shift.training.recipe import load_recipe

    loaded = load_recipe(recipe, settings_at_home(settings), preset)
    if dry_run:
        print_json(loaded.model_dump_json(indent=2))
        return
    from latent_shift.training import trainer
    from latent_shift.training.task import build_task

    with training_bar(loaded.task, loaded.steps) as report:
        print(trainer.train(build_task(loaded), report))
