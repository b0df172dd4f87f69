"""Collections of clips in the formats that people have, each a small file: settings in, a `Listing` out.

    source = read_source("clips.yaml")           # the settings of one source, with its format
    source = recognise("clips/")                 # or what is clear from the name: a folder, a table, tars
    source.read().entries

A new format is a new file here with a class, and its name in `Sources` below.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from latent_shift.data.sources.base import Source
from latent_shift.data.sources.folder import FolderSource
from latent_shift.data.sources.huggingface import HuggingFaceSource
from latent_shift.data.sources.msrvtt import MsrvttSource
from latent_shift.data.sources.shards import ShardsSource
from latent_shift.data.sources.table import TableSource
from latent_shift.data.sources.ucf101 import Ucf101Source
from latent_shift.data.sources.webvid import WebvidSource

Sources = (
    FolderSource | TableSource | MsrvttSource | Ucf101Source | WebvidSource | HuggingFaceSource | ShardsSource
)
AnySource = Annotated[Sources, Field(discriminator="format")]
FORMATS = ("folder", "table", "msrvtt", "ucf101", "webvid", "huggingface", "shards")
_ANY_SOURCE: TypeAdapter[Sources] = TypeAdapter(AnySource)

__all__ = ["FORMATS", "AnySource", "Source", "Sources", "make_source", "read_source", "recognise"]


def make_source(settings: Mapping[str, Any], where: str) -> Sources:
    """A source of its settings; ValueError naming `where` and the first wrong key."""
    try:
        return _ANY_SOURCE.validate_python(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"][1:]))  # the first is the format
        if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
            key, told = "format", f"expected one of {', '.join(FORMATS)}"
        elif first["type"] == "extra_forbidden":
            told = f"unknown key of format {first['loc'][0]}"
        elif first["type"] == "missing":
            told = f"is missing; format {first['loc'][0]} needs it"
        else:
            told = f"{first['msg']}, got {str(first['input'])[:80]!r}"
        raise ValueError(f"{where}: {key}: {told}") from error


def read_source(path: Path, **changes: Any) -> Sources:
    """A source from a YAML file with its settings; relative paths start from that file's folder.

    changes: settings that stand in for those of the file. Raises ValueError naming the file and the key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"source {path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"source {path}: expected keys and values, among them format")
    source = make_source(content | changes, f"source {path}")
    return source.model_copy(update=_from_folder(source, path.parent, set(changes)))


def _from_folder(source: Sources, folder: Path, kept: set[str]) -> dict[str, Any]:
    """The source's relative paths, but for `kept` ones, as they are seen from where the program runs."""
    values = {name: getattr(source, name) for name in type(source).model_fields if name not in kept}
    moved: dict[str, Any] = {
        name: folder / value for name, value in values.items() if isinstance(value, Path)
    }
    if isinstance(source, HuggingFaceSource) and not source.hub and "path" not in kept:
        moved["path"] = str(folder / source.path)
    if isinstance(source, ShardsSource) and "shards" not in kept:
        patterns = (source.shards,) if isinstance(source.shards, str) else source.shards
        moved["shards"] = tuple(p if "://" in p else str(folder / p) for p in patterns)
    return moved


def recognise(name: str, format: str | None = None, **settings: Any) -> Sources:
    """A source of what a user typed: a folder, a .csv, .tsv, .jsonl, .json or .yaml file, a pattern of tars.

    format: where the name does not tell; settings: the format's other keys. Raises ValueError naming what is
    not clear.
    """
    if name.endswith((".yaml", ".yml")):
        changes = settings if format is None else {"format": format, **settings}
        return read_source(Path(name), **changes)
    format = format or _format_of(name)
    key = "shards" if format == "shards" else "path"
    return make_source({"format": format, key: name, **settings}, name)


def _format_of(name: str) -> str:
    if name.endswith(".tar"):
        return "shards"
    if name.endswith(".json"):
        return "msrvtt"
    if name.endswith((".csv", ".tsv", ".jsonl")):
        return "table"
    folder = Path(name)
    if not folder.is_dir():
        expected = "a folder, a .csv, .tsv, .jsonl, .json or .yaml file, or tars"
        raise ValueError(f"source {name!r}: no such folder; expected {expected}")
    if any((folder / file).exists() for file in ("state.json", "dataset_dict.json")):
        return "huggingface"
    if any(folder.glob("*/v_*_g[0-9][0-9]_c[0-9][0-9].avi")):
        return "ucf101"
    if next(folder.glob("*.tar"), None) is not None:
        raise ValueError(f"source {name!r}: a folder of tars; name them, as in '{folder}/*.tar'")
    return "folder"
