"""The recipe of a run, kept beside its checkpoints: a run goes on only with what it was begun with.

Whatever changes the numbers must stay; what only decides how long, how fast and how well watched a run is may
change. A run without a checkpoint has begun nothing yet, so its recipe is free.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from latent_shift.training.checkpoint import checkpoints, step_of
from latent_shift.training.recipe import Run

FILE_NAME = "recipe.json"
FREE = frozenset(
    {
        "output", "steps", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "workers",
        "compile", "precision", "optimizer.cooldown_steps", "sampling.guidance_scale",
        "sampling.num_inference_steps", "sampling.eta",
    }
)  # fmt: skip


def check_recipe(recipe: Run) -> None:
    """Raise ValueError, naming every changed key, where the run's checkpoints come from another recipe."""
    path = recipe.output / FILE_NAME
    if not path.exists() or not checkpoints(recipe.output):
        return
    changed = changes(_begun_with(path, type(recipe)), recipe.model_dump(mode="json"))
    if changed:
        raise ValueError(
            f"{recipe.output} was begun with other settings: {'; '.join(changed)}."
            " Set them back, or train into another output folder"
        )


def is_finished(recipe: Run) -> bool:
    """Whether the run took its last step by this very recipe and its model is written: nothing is left."""
    found, path = checkpoints(recipe.output), recipe.output / FILE_NAME
    if not found or step_of(found[-1]) < recipe.steps or not (recipe.output / "model").is_dir():
        return False
    return not path.exists() or _begun_with(path, type(recipe)) == recipe.model_dump(mode="json")


def write_recipe(recipe: Run) -> None:
    """Keep the recipe in the run's folder."""
    recipe.output.mkdir(parents=True, exist_ok=True)
    partial = recipe.output / f".{FILE_NAME}.unfinished"
    partial.write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
    os.replace(partial, recipe.output / FILE_NAME)


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs of two recipes, as "a.b was 1, is 2", without what is free to change."""
    old, new = _flat(before), _flat(now)
    keys = [key for key in dict.fromkeys([*old, *new]) if key not in FREE and old.get(key) != new.get(key)]
    return [f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in keys]


def _begun_with(path: Path, kind: type[Run]) -> dict[str, Any]:
    """The recipe on disk, completed by the defaults of keys that are younger than it."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    try:
        return kind.model_validate(content).model_dump(mode="json")
    except ValidationError:  # of another task, or with a key that is gone: compare as it stands
        return content


def _flat(values: dict[str, Any], parent: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{parent}{key}.") if isinstance(value, dict) else {f"{parent}{key}": value})
    return flat
