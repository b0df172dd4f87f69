"""The recipe of a run, recorded beside its checkpoints: a run goes on only with the recipe it was begun with.

What changes the numbers must stay; what only decides how long, how fast and how well watched a run is may
change. A run without a checkpoint has begun nothing yet, so its recipe is free.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from latent_shift.io import read_json_mapping, write_text
from latent_shift.training.checkpoint import checkpoints, damage, step_of
from latent_shift.training.old_recipes import upgrade
from latent_shift.training.recipe import Recipe

FILE_NAME = "recipe.json"
FREE = frozenset(
    {
        "output", "steps", "log_every", "sample_every", "checkpoint_every", "checkpoints_total_limit",
        "num_workers", "compile", "optimizer.cooldown_steps", "sampling.guidance_scale",
        "sampling.num_inference_steps", "sampling.eta",
    }
)  # fmt: skip


def is_finished(recipe: Recipe) -> bool:
    """Whether a run took its last step by this very recipe and its model is written.

    Raises ValueError, naming every changed key, where the run's checkpoints come from another recipe, and
    where the run has taken more steps than the recipe has now: its model card would name fewer.
    Also where a model is there and no checkpoint, the model of another run or of none: to begin anew would
    replace it.
    """
    path, model = recipe.output / FILE_NAME, recipe.output / "model"
    begun = checkpoints(recipe.output)
    if not begun and not model.is_symlink() and model.is_dir() and any(model.iterdir()):
        raise ValueError(
            f"{model}: is there already, and no checkpoint to go on from: training would begin anew and"
            " replace it; train into another output folder, or move this one away"
        )
    found = [one for one in begun if damage(one, contents=False) is None]
    if not found:
        return False
    now = recipe.model_dump(mode="json")
    before = _recorded(path, type(recipe)) if path.exists() else now
    if changed := changes(before, now):
        raise ValueError(
            f"{recipe.output} was begun with other settings: {'; '.join(changed)}."
            " Set them back, or train into another output folder"
        )
    if step_of(found[-1]) > recipe.steps:
        raise ValueError(
            f"{recipe.output}: has taken {step_of(found[-1])} steps already, more than steps {recipe.steps};"
            f" set steps to {step_of(found[-1])} or more, or train into another output folder"
        )
    return before == now and step_of(found[-1]) >= recipe.steps and model.is_dir()


def record_recipe(recipe: Recipe) -> None:
    """Write the recipe, with all defaults, into the run's folder."""
    write_text(recipe.output / FILE_NAME, recipe.model_dump_json(indent=2) + "\n")


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Differences between two recipes, as "a.b was 1, is 2", without keys that are free to change."""
    old, new = _flat(before), _flat(now)
    keys = [key for key in dict.fromkeys([*old, *new]) if key not in FREE and old.get(key) != new.get(key)]
    return [f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in keys]


def _recorded(path: Path, config: type[Recipe]) -> dict[str, Any]:
    """The recorded recipe, completed by the defaults of keys that are younger than it."""
    try:
        content = read_json_mapping(path)
    except ValueError as error:
        mend = "put the recipe of this run there, or remove the file to go on with the recipe given"
        raise ValueError(f"{error}; {mend}") from error
    upgrade(content)
    try:
        return config.model_validate(content).model_dump(mode="json")
    except ValidationError:  # of another task, or with a key that is gone: compare it as it is
        return content


def _flat(values: dict[str, Any], parent: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{parent}{key}.") if isinstance(value, dict) else {f"{parent}{key}": value})
    return flat
