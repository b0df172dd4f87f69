"""The recipe of a run, recorded beside its checkpoints: a run goes on only with the recipe it was begun with.

What changes the numbers must stay; what only decides how long, how fast and how well watched a run is may
change. A run without a checkpoint has begun nothing yet, so its recipe is free.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from latent_shift.documents import read_json_mapping
from latent_shift.io import warn, write_text
from latent_shift.training.checkpoint import checkpoints, damage, step_of
from latent_shift.training.model_folder import MODEL, SET_ASIDE, holds_files
from latent_shift.training.old_recipes import upgrade
from latent_shift.training.recipe import Recipe

FILE_NAME = "recipe.json"
_OF_THE_MODEL = frozenset(
    {
        "steps", "optimizer.cooldown_steps", "sampling.guidance_scale", "sampling.num_inference_steps",
        "sampling.eta",
    }
)  # fmt: skip
FREE = _OF_THE_MODEL | {
    "output", "log_every", "sample_every", "checkpoint_every", "checkpoints_total_limit", "num_workers",
    "compile",
}  # fmt: skip


def is_finished(recipe: Recipe) -> bool:
    """Whether a run took its last step by this very recipe and its model is written.

    Raises ValueError, naming every changed key, where the run's checkpoints come from another recipe, and
    where the run has taken more steps than the recipe has now: its model card would name fewer.
    Also where a model is there and no checkpoint, the model of another run or of none: to begin anew would
    replace it; and where a file is in its place. Warns (UserWarning) where the record is gone.
    """
    path, model = recipe.output / FILE_NAME, recipe.output / MODEL
    begun = checkpoints(recipe.output)
    if model.exists() and not model.is_dir():
        raise ValueError(f"{model}: is a file, where the run's model is to be: move it away")
    holds_model = holds_files(model)
    earlier = model if holds_model else recipe.output / SET_ASIDE  # by a process that was killed
    if not begun and not model.is_symlink() and holds_files(earlier):
        raise ValueError(
            f"{earlier}: is there already, and no checkpoint to go on from: training would begin anew and"
            " replace it; train into another output folder, or move this one away"
        )
    found = [one for one in begun if damage(one, contents=False) is None]
    if not found:
        return False
    now = recipe.model_dump(mode="json")
    if not path.exists():
        warn(f"{path}: is gone: the run goes on by the recipe given, and nothing tells whether it began so")
    before = _recorded(path, type(recipe)) if path.exists() else now
    if changed := changes(before, now):
        raise ValueError(
            f"{recipe.output} was begun with other settings: {'; '.join(changed)}."
            f" Set them back, or train into another output folder{_moved(before, now, path)}"
        )
    if step_of(found[-1]) > recipe.steps:
        raise ValueError(
            f"{recipe.output}: has taken {step_of(found[-1])} steps already, more than steps {recipe.steps};"
            f" set steps to {step_of(found[-1])} or more, or train into another output folder"
        )
    is_done = before == now and step_of(found[-1]) >= recipe.steps
    return is_done and holds_model and not _is_of_earlier_settings(model / FILE_NAME, type(recipe), now)


def _is_of_earlier_settings(path: Path, config: type[Recipe], now: dict[str, Any]) -> bool:
    """Whether a model's own recipe has other values of keys that were free to change, or cannot be read.

    path: of that recipe; without it, no. now: the run's recipe. So is the model of fewer steps, where the
    run was ended before the export of the last.
    """
    if not path.exists():
        return False
    try:
        made, wanted = _flat(_recorded(path, config)), _flat(now)
    except ValueError:
        return True
    return any(made.get(key) != wanted.get(key) for key in _OF_THE_MODEL)


def record_recipe(recipe: Recipe) -> None:
    """Write the recipe, with all defaults, into the run's folder."""
    write_text(recipe.output / FILE_NAME, recipe.model_dump_json(indent=2) + "\n")


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Differences between two recipes, as "a.b was 1, is 2", without keys that are free to change.

    Two names of one file or folder, as clips and ./clips/, are no difference.
    """
    return [f"{key} was {old!r}, is {new!r}" for key, (old, new) in _differences(before, now).items()]


def _differences(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Old and new values by key."""
    old, new = _flat(before), _flat(now)
    pairs = {key: (old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new]) if key not in FREE}
    return {key: (was, is_) for key, (was, is_) in pairs.items() if was != is_ and not _is_one(was, is_)}


def _is_one(first: Any, second: Any) -> bool:
    """Whether two values are names of one file or folder that is there."""
    return _is_place(first) and _is_place(second) and os.path.samefile(first, second)


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and os.path.exists(value)


def _moved(before: dict[str, Any], now: dict[str, Any], path: Path) -> str:
    """A further mend, where folders or files have other places now and the old ones are gone; else none."""
    changed = _differences(before, now).values()
    if any(isinstance(old, str) and not _is_place(old) and _is_place(new) for old, new in changed):
        return f"; where the same files are in a new place, write it into {path}, too"
    return ""


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
