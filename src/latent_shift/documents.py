"""JSON and YAML that people and programs wrote, read with errors that name the file, the key and the mend."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from latent_shift.io import one_line, printable

Model = TypeVar("Model", bound=BaseModel)


def parse_json(text: str) -> Any:
    """A JSON value that people wrote. Raises ValueError, also for a key that stands twice in one object.

    Of such a key Python's reader takes the last value, and loses the others in silence.
    """
    try:
        return json.loads(text, object_pairs_hook=_no_key_twice)
    except _TwiceError:
        raise
    except RecursionError as error:
        raise ValueError("is nested too deeply for JSON") from error
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error


class _TwiceError(ValueError):
    """A key that stands twice."""


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _TwiceError(f"the key {printable(twice)!r} stands twice; remove one, or rename it")
    return found


def read_json_mapping(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError naming the file where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: is missing") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: is nested too deeply for JSON") from error
    except ValueError as error:
        raise ValueError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return content


def read_model(kind: type[Model], path: Path) -> Model:
    """A file that a program wrote as JSON. Raises ValueError naming the file where it is damaged."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        again = "remove it, and the same command makes it anew"
        raise ValueError(f"{path}: is damaged: {validation_error(error)}; {again}") from error


_TYPED = [f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "null", "timestamp")]


class YamlLoader(yaml.SafeLoader):
    """As YAML's safe loader, but numbers are decimal ones, keys are texts, and none may stand twice.

    YAML 1.1 reads 8:30 as 510 and 010 as 8, and the key No as false, whatever was meant; here they are texts.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping of a node."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.MarkedYAMLError(
                problem=f"the key {twice[0]!r} stands twice", problem_mark=node.start_mark
            )
        for key, _ in node.value:  # names, such as those of classes
            if isinstance(key, yaml.ScalarNode) and key.tag in _TYPED:
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


YamlLoader.yaml_implicit_resolvers = {
    sign: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("int", "float")]
    for sign, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(([0-9][0-9_]*\.[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> Any:
    """A YAML value. Raises ValueError naming `where` for text that is not YAML."""
    try:
        return yaml.load(text, YamlLoader)  # a safe one
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: is not valid YAML: {one_line(error)}") from error
    except RecursionError as error:
        raise ValueError(f"{where}: is nested too deeply for YAML") from error


def read_yaml_mapping(path: Path, kind: str) -> dict[str, Any]:
    """The mapping in a YAML file, or a .json one, as the record of a run.

    Raises ValueError naming `kind` and the file where there is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = parse_json(text) if path.suffix.lower() == ".json" else yaml.load(text, YamlLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read {kind} {path}: {one_line(error)}") from error
    except RecursionError as error:
        raise ValueError(f"cannot read {kind} {path}: it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"{kind} {path} must be a mapping of keys to values")
    return content


_NO_TEXT = (
    bool,
    int,
    float,
    datetime.date,
    type(None),
)  # YAML's readings of what may have been meant as a text
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")  # of a model, of a dataclass


def validation_error(
    error: ValidationError, owner: str = "", advice: Callable[[str], str] | None = None
) -> str:
    """The first error of a pydantic validation as "key: what is wrong, got value"; how many more there are.

    Unknown keys come before others: a missing key is often one that was misspelt. owner: what the keys belong
    to, as "format table". advice: gives a sentence about an unknown key.
    """
    first = min(error.errors(), key=lambda one: one["type"] not in _UNKNOWN_KEY)
    key = ".".join(map(str, first["loc"]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "value_error":  # raised by our own validators, which name the values
        reason = str(first["ctx"]["error"])
    elif first["type"] in _UNKNOWN_KEY:
        reason = f"unknown key of {owner}" if owner else "unknown key"
        reason += f"; {advice(str(first['loc'][-1]))}" if advice is not None else ""
    elif first["type"] == "missing":
        reason = f"is missing; {owner} needs it" if owner else "is missing"
    else:
        reason = f"{first['msg']}, got {str(first['input'])[:80]!r}"
        if first["type"] in ("tuple_type", "list_type"):
            reason = f"expected a list, as [a, b], got {str(first['input'])[:80]!r}"
        if first["type"] in ("string_type", "path_type") and first["input"] is None:
            reason = "is empty (null in YAML); expected a text"
        elif first["type"] in ("string_type", "path_type") and isinstance(first["input"], _NO_TEXT):
            reason += "; put it in quotation marks if it is a text"
    return f"{key}: {reason}{more}" if key else f"{reason}{more}"
