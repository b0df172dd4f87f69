"""Parts of the OpenAPI document that the framework cannot derive: bodies of three kinds, and files."""

from __future__ import annotations

from typing import Any

from latent_shift.server.bodies import FORMS
from latent_shift.server.variants import TYPES

FILE = {
    "type": "object",
    "required": ["file"],
    "properties": {"file": {"type": "string", "format": "binary"}},
}


def request_body(model: type[Any]) -> dict[str, Any]:
    """A body of any of the three kinds, for the document."""
    schema = model.model_json_schema()
    forms = {**schema, "properties": {name: _no_null(one) for name, one in schema["properties"].items()}}
    content = {"application/json": {"schema": schema}, **{kind: {"schema": forms} for kind in FORMS}}
    return {"requestBody": {"required": True, "content": content}}


def _no_null(field: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field of a form, which can leave a value out and knows no null."""
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    others = {name: value for name, value in field.items() if name not in ("anyOf", "default")}
    if not kinds:
        return field
    return {**others, **kinds[0]} if len(kinds) == 1 else {**others, "anyOf": kinds}


def media(answers: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """Answers that hold a clip or an image, for the document."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    kinds = dict.fromkeys([*TYPES.values()], binary)
    return {status: {"description": text, "content": kinds} for status, text in answers.items()}
