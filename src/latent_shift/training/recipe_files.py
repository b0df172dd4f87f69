"""Recipes as files: YAML, with a preset and single settings laid over it, checked as a whole.

A preset is a file of changes for several recipes, by their names: what a larger machine does otherwise.
`read_recipe(path, ["steps=10"], preset=Path("gpu.yaml"))` gives a `Recipe`.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from latent_shift.training.recipe import ANY_RECIPE, Recipe


def read_recipe(path: Path, settings: Sequence[str] = (), preset: Path | None = None) -> Recipe:
    """A recipe from a YAML file, over it what the preset says of it, over both `a.b=value` settings.

    Raises ValueError naming the file and the key that is unknown, missing, of a wrong type or contradictory.
    """
    content = _read_mapping(path, "recipe")
    if preset is not None:
        _merge(content, _changes(preset, path), f"preset {preset}: {path.stem}")
    for setting in settings:
        _lay_over(content, setting)
    try:
        return ANY_RECIPE.validate_python(content)
    except ValidationError as error:
        with_preset = f" with preset {preset}" if preset is not None else ""
        raise ValueError(f"recipe {path}{with_preset}: {_first_error(error)}") from error


def _read_mapping(path: Path, kind: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read {kind} {path}: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{kind} {path} must be a mapping of keys to values")
    return content


def _changes(preset: Path, recipe: Path) -> dict[str, Any]:
    """What a preset says of a recipe; a preset that says nothing of it is a mistake."""
    changes = _read_mapping(preset, "preset")
    own = changes.get(recipe.stem)
    if not isinstance(own, dict):
        known = ", ".join(map(str, changes))
        raise ValueError(f"preset {preset} has no settings for {recipe.stem}; it has some for {known}")
    return own


def _merge(content: dict[str, Any], changes: dict[str, Any], where: str) -> None:
    """Lay `changes` over `content`, group by group, in place."""
    for key, value in changes.items():
        if not isinstance(value, dict):
            content[key] = value
        elif isinstance(content.setdefault(key, {}), dict):
            _merge(content[key], value, f"{where}.{key}")
        else:
            raise ValueError(f"{where}: {key!r} is a value in the recipe, not a group of keys")


def _lay_over(content: dict[str, Any], setting: str) -> None:
    name, equals, value = setting.partition("=")
    if not equals or not all(name.split(".")):
        raise ValueError(f"setting {setting!r} must look like key=value or a.b=value")
    *parents, last = name.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise ValueError(f"setting {setting!r}: {parent!r} is a value, not a group of keys")
    try:
        content[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"setting {setting!r} has no YAML value: {_one_line(error)}") from error


def _first_error(error: ValidationError) -> str:
    """The first error in words; of unknown keys, which are often a missing one misspelt, before others."""
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    key = ".".join(map(str, first["loc"][1:]))  # the first is the task
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "value_error":  # raised here: names its values itself
        return f"{key}: {first['ctx']['error']}{more}" if key else f"{first['ctx']['error']}{more}"
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        chosen = str(first["ctx"]["discriminator"]).strip("'")
        place, tags = f"{key}.{chosen}" if key else chosen, first["ctx"].get("expected_tags")
        known = f": one of {tags}" if tags is not None else ""
        said = f"{first['ctx']['tag']!r} is unknown" if "tag" in first["ctx"] else "is missing"
        return f"{place}: {said}{known}{more}"
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_meant(str(first['loc'][-1]))}{more}"
    if first["type"] == "missing":
        return f"{key}: is missing{more}"
    return f"{key}: {first['msg']}, got {str(first['input'])[:80]!r}{more}"


def _meant(name: str) -> str:
    """What to do about an unknown key."""
    models = ANY_RECIPE.json_schema()["$defs"].values()
    near = get_close_matches(name, {key for model in models for key in model.get("properties", ())}, n=1)
    return f"did you mean {near[0]}?" if near else "remove it (--dry-run prints all keys of a valid recipe)"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
