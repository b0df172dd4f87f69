"""Recipes: everything that decides a training run, as strict pydantic models read from YAML.

Unknown keys, wrong types and contradictory values are errors before any work is done. `Recipe` has what every
run needs; each task (`tasks/`) extends it with its own keys, all in one flat file. A preset, which has
changes for several recipes by their names, and single settings are laid over the file.

    load_recipe(Path("recipe.yaml"), ["steps=10"], preset=Path("gpu.yaml"))
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from huggingface_hub.errors import StrictDataclassError
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from latent_shift.documents import YamlLoader, read_yaml_mapping, validation_error
from latent_shift.io import at_home, check_folder, check_no_address, one_line
from latent_shift.training.old_recipes import upgrade
from latent_shift.training.tasks import TASKS

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
_TEXT_ERRORS = ("string_type", "path_type")  # of pydantic, for values that are no text


class Strict(BaseModel):
    """A configuration in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_word(cls, value: Any, info: ValidationInfo) -> Any:
        """The value; YAML's yes, no, on and off would be the numbers 1 and 0."""
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        words = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, bool)]
        if words and kinds & {int, float} and bool not in kinds:
            raise ValueError(
                f"expected a number, got {words[0]}, which yes, on and true (no, off, false) are"
            )
        return value


def _kinds(annotation: Any) -> set[Any]:
    """A type and all types within it."""
    return {annotation}.union(*map(_kinds, get_args(annotation)))


class Holds(tuple[str, ...]):
    """Annotation of a folder's path: parts that must be in it when a run starts."""


class Made:
    """Annotation of a folder's path: it is made when a run starts, where it is not there yet."""


class OptimizerConfig(Strict):
    """AdamW or Muon, and the learning rate: linear warm-up, plateau, linear cool-down to zero."""

    kind: Literal["adamw", "adamw-8bit", "muon"] = Field(
        "adamw",
        description="adamw-8bit: a quarter of the memory (arXiv 2110.02861), needs a CUDA GPU;"
        " muon: orthogonalized steps of matrices (arXiv 2502.16982), AdamW for all else",
    )
    learning_rate: float = Field(gt=0.0)
    weight_decay: float = Field(0.01, ge=0.0)
    betas: tuple[Ratio, Ratio] = (0.9, 0.99)
    warmup_steps: int = Field(100, ge=0)
    cooldown_steps: int = Field(0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0.0, description="longer gradients are scaled down to this norm")
    max_skipped_steps: int = Field(20, ge=0, description="steps without a finite gradient; more end the run")


class Validation(Strict):
    """Items kept out of the training, and the loss on them under fixed noise."""

    items: Count = Field(64, description="clips; of the task autoencoder, frames")
    every: Count = Field(250, description="steps from one validation to the next")


class Recipe(Strict):
    """The keys of every task."""

    # Whether the loss is a mean over the items of a batch. If it compares the items with each other, a batch
    # cannot be split.
    loss_is_mean: ClassVar[bool] = True

    task: str
    output: Annotated[Path, Made()] = Field(
        description="folder of the run: checkpoints, log, samples, and the finished model"
    )
    seed: int = Field(0, ge=0, lt=1 << 63)
    steps: Count
    batch_size: Count = Field(description="clips (or images) a step, over all processes")
    gradient_accumulation_steps: Count = Field(1, description="parts of a batch; more take less memory")
    optimizer: OptimizerConfig
    ema_decay: float = Field(0.999, ge=0.0, lt=1.0)
    mixed_precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = Field(False, description="torch.compile: slower to start, then faster; on CPUs no faster")
    num_workers: int = Field(0, ge=0, description="processes that load batches, or render clips to encode")
    log_every: Count = 20
    checkpoint_every: Count = 500
    checkpoints_total_limit: Count = 2
    sample_every: int = Field(0, ge=0, description="steps between samples; 0 for none")
    validation: Validation | None = None

    @field_validator("output", mode="before")
    @classmethod
    def _is_no_address(cls, value: Any) -> Any:
        if isinstance(value, str):
            check_no_address(value)
            if not value.strip():
                raise ValueError("is empty; name a folder")
        return value

    def check(self) -> None:
        """Raise ValueError before any model is loaded: for folders missing or not to be made, bad data."""
        _check_folders(self, "")

    def data_summary(self) -> list[str]:
        """Lines for the model card: what the model is trained on."""
        return []

    def clips_hashes(self) -> dict[str, str]:
        """Hashes of the user's clips, where there are any: "clips" of names and captions, "files" of ends."""
        clips = getattr(self, "clips", None)  # of the tasks that have it, the same section
        return {} if clips is None else {"clips": clips.entries_hash(), "files": clips.files_hash()}

    @property
    def validates_several_shapes(self) -> bool:
        """Whether the items of the validation may differ in shape."""
        return False

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        schedule, parts = self.optimizer, self.gradient_accumulation_steps
        if schedule.warmup_steps + schedule.cooldown_steps > self.steps:
            raise ValueError(
                f"warmup_steps {schedule.warmup_steps} + cooldown_steps {schedule.cooldown_steps} exceed"
                f" steps {self.steps}"
            )
        if not self.loss_is_mean and (parts > 1 or self.validation is not None):
            raise ValueError(
                f"gradient_accumulation_steps and validation: not for task {self.task}, whose loss compares"
                " all items of a batch with each other; remove them"
            )
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of gradient_accumulation_steps {parts}"
            )
        return self


def _check_folders(section: BaseModel, prefix: str) -> None:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            _check_folders(value, f"{prefix}{name}.")
        if any(isinstance(mark, Made) for mark in field.metadata) and not value.is_dir():
            try:
                check_folder(value)
            except ValueError as error:
                raise ValueError(f"{prefix}{name}: {error}") from error
        for holds in (mark for mark in field.metadata if isinstance(mark, Holds) and value is not None):
            for part in holds:
                if not (value / part).is_dir():
                    raise ValueError(
                        f"{prefix}{name}: {value} has no {part}/: train the stage before it first"
                    )


def exactly_one(recipe: Recipe, first: str, second: str) -> None:
    """Raise ValueError unless a recipe has one of two keys."""
    if (getattr(recipe, first) is None) == (getattr(recipe, second) is None):
        raise ValueError(f"{first} or {second}: give one of them, and only one")


def known_to(model: type, *without: str, more: str = "") -> AfterValidator:
    """Validator of the configuration of a library's class: every key must be an argument of it.

    transformers takes any key and diffusers fails late on an unknown one. The keys and their defaults are in
    the documentation of the class. without: arguments that are set elsewhere. more: a key beyond them.
    """
    known = set(inspect.signature(model).parameters) - {"kwargs", *without} | ({more} - {""})

    def check(configuration: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(set(configuration) - known)
        if unknown:
            raise ValueError(
                f"{model.__name__} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}"
            )
        return configuration

    return AfterValidator(check)


@contextmanager
def making_network(section: str) -> Iterator[None]:
    """Within the `with` block, values of which a library can make no network are a ValueError.

    section: of the recipe, which holds them.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError,
            StrictDataclassError) as error:  # fmt: skip
        raise ValueError(f"{section}: makes no network: {one_line(error)}") from error


def load_recipe(path: Path, settings: Sequence[str] = (), preset: Path | None = None) -> Recipe:
    """Read a recipe from a YAML file, over it a preset's changes, over both `a.b=value` settings.

    Raises ValueError naming the file and the key that is unknown, missing, of a wrong type or contradictory.
    """
    where = f"recipe {path}"
    layers = [(where, read_yaml_mapping(path, "recipe"))]
    if preset is not None:
        where += f" with preset {preset}"
        layers.append((f"preset {preset}: {path.stem}", _preset_changes(preset, path)))
    layers = [(layer, _all_at_home(changes)) for layer, changes in layers]
    layers += [(f"setting {setting!r}", _parse_setting(setting)) for setting in settings]
    content: dict[str, Any] = {}
    typed: dict[tuple[str, ...], str] = {}
    for name, _, text in (one.partition("=") for one in settings):
        keys = tuple(name.split("."))  # of a section, it replaces what was typed for keys in it
        typed = {key: old for key, old in typed.items() if key[: len(keys)] != keys} | {keys: text}
    for layer, changes in layers:
        upgrade(changes, layer)
        _merge(content, changes, layer)
    if "task" not in content:
        raise ValueError(f"{where}: task: is missing: one of {', '.join(TASKS.names())}")
    try:
        config: type[Recipe] = TASKS[str(content["task"])].Config
        return _validated(config, content, typed)
    except ValidationError as error:
        problem = unread_problem(error) or validation_error(error, advice=partial(_advice, config))
        raise ValueError(f"{where}: {problem}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _validated(config: type[Recipe], content: dict[str, Any], typed: dict[tuple[str, ...], str]) -> Recipe:
    """The recipe of a content. A setting of a text or a path keeps what was typed, whatever it is in YAML.

    typed: the texts of settings by their keys; `2026-11-28`, `no` and `12` are names of folders as well.
    """
    try:
        return config.model_validate(content)
    except ValidationError as error:
        if not put_typed_texts(content, typed, error):
            raise
    return config.model_validate(content)


def put_typed_texts(
    content: dict[str, Any], typed: dict[tuple[str, ...], str], error: ValidationError, *, nulls: bool = False
) -> bool:
    """Put what was typed in place of the values that should be texts or paths, by an error of validation.

    content: the values by section, changed in place. nulls: whether null is a name, too, and not none.
    Returns whether there was any.
    """
    texts = [one for one in error.errors() if one["type"] in _TEXT_ERRORS]
    whole = [one for one in texts if not isinstance(one["loc"][-1], int)]  # no item of a list
    paths = [_keys(one["loc"], content) for one in whole if nulls or one["input"] is not None]
    kept = {path: typed[path] for path in paths if typed.get(path, "").strip()}
    for (*above, key), text in kept.items():
        section = content
        for part in above:
            section = section[part]
        section[key] = text.strip()
    return bool(kept)


def _keys(location: tuple[int | str, ...], content: Any) -> tuple[str, ...]:
    """The keys of an error's location, which names the kinds of unions between them as well."""
    keys = []
    for part in location:
        if isinstance(content, dict) and part in content:
            keys.append(str(part))
            content = content[part]
    return tuple(keys)


class _Whole(dict[str, Any]):
    """A mapping that replaces another where it is laid over it."""


def _parse_setting(setting: str) -> dict[str, Any]:
    """`a.b=value` as {"a": {"b": value}}."""
    name, equals, text = setting.partition("=")
    try:
        setting.encode()
    except UnicodeEncodeError as error:  # the bytes of a name that is none
        raise ValueError(f"setting {setting!a}: is not UTF-8; rename the file that it names") from error
    if not equals or not all(name.split(".")):
        raise ValueError(f"setting {setting!r} must look like key=value or a.b=value")
    value = setting_value(text.strip(), f"setting {setting!r}")
    if isinstance(value, dict):
        value = _Whole(value)
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def _all_at_home(value: Any) -> Any:
    """A value of a file, with the user's folder for the ~ of texts such as ~/clips, which no shell saw."""
    if isinstance(value, dict):
        return {key: _all_at_home(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_all_at_home(one) for one in value]
    return at_home(value.removesuffix("\n")) if isinstance(value, str) else value  # as of a block, | or >


class _Unread(str):
    """A typed text that is no YAML: a name, as `[2024] holidays` of a folder; for all else an error."""

    problem = ""


def setting_value(text: str, where: str) -> Any:
    """The value of a text that was typed for a setting.

    One that is no YAML is a text; where none is expected, `unread_problem` says why, naming `where`.
    """
    try:  # anchors, tags and such, which a file may have, are texts here
        value: Any = text if text.startswith(tuple("&*!%@`|>=<#")) else yaml.load(text, YamlLoader)
    except (yaml.YAMLError, RecursionError) as error:
        unread = _Unread(text)
        unread.problem = f"{where} has no YAML value: {one_line(error)}"
        return unread
    if isinstance(value, str) and not text.startswith(("'", '"')):
        return text  # also from a # on, which begins a comment in a file
    return value


def unread_problem(error: ValidationError) -> str | None:
    """Return why a setting that is no text could not be read as YAML; None where all were."""
    wrong = [one["input"] for one in error.errors() if one["type"] != "extra_forbidden"]  # has no such key
    return next((value.problem for value in wrong if isinstance(value, _Unread)), None)


def _preset_changes(preset: Path, recipe: Path) -> dict[str, Any]:
    """The changes that a preset has for a recipe. Raises ValueError where it has none."""
    changes = read_yaml_mapping(preset, "preset")
    own = changes.get(recipe.stem)
    if not isinstance(own, dict):
        known = ", ".join(map(str, changes))
        raise ValueError(f"preset {preset} has no settings for {recipe.stem}; it has some for {known}")
    return own


def _merge(content: dict[str, Any], changes: dict[str, Any], where: str) -> None:
    """Lay `changes` over `content`, section by section, in place."""
    for key, value in changes.items():
        if not isinstance(value, dict) or isinstance(value, _Whole):
            content[key] = value
        elif isinstance(content.setdefault(key, {}), dict):
            _merge(content[key], value, where)
        else:
            raise ValueError(f"{where}: {key!r} is a value, not a group of keys")


def _advice(config: type[Recipe], key: str) -> str:
    """Advice on an unknown key."""
    schema = config.model_json_schema()
    sections = (schema, *schema.get("$defs", {}).values())
    known = {name for section in sections for name in section.get("properties", ())}
    if key in known:
        return "it is a key of another section (--dry-run prints all keys of a valid recipe)"
    near = get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else "remove it (--dry-run prints all keys of a valid recipe)"
