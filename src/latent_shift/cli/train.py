"""`latent-shift train RECIPE.yaml`: run a recipe; the same command again goes on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="What to train, on what, how long.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Change a setting of the recipe.")
    ] = None,
    preset: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="Changes for several recipes; --set goes over it."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe, print it in full, and train nothing.")
    ] = False,
) -> None:
    """Train what a recipe says. The same command again resumes from the last checkpoint."""
    from latent_shift.training.recipe_files import read_recipe

    wanted = read_recipe(recipe, settings or [], preset)
    if dry_run:
        print(wanted.model_dump_json(indent=2))
        return
    from latent_shift.cli.progress import training_bar
    from latent_shift.training.run import run

    with training_bar(wanted.task, wanted.steps) as report:
        print(run(wanted, report))
