"""Collections of clips in the formats that people have, each a small file: settings in, a `Listing` out.

    source = read_source("clips.yaml")           # the settings of one source, with its format
    source = recognise("clips/")                 # or what is clear from the name: a folder, a table, tars
    source.read().entries

A new format is a new file here with a class, and a line in `SOURCES` below.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from latent_shift.data.sources.base import GeneratedSource, Source
from latent_shift.registry import Registry

_HERE = "latent_shift.data.sources"
SOURCES = Registry(
    "format",
    "latent_shift.sources",
    {
        "folder": f"{_HERE}.folder:FolderSource",
        "table": f"{_HERE}.table:TableSource",
        "msrvtt": f"{_HERE}.msrvtt:MsrvttSource",
        "ucf101": f"{_HERE}.ucf101:Ucf101Source",
        "webvid": f"{_HERE}.webvid:WebvidSource",
        "huggingface": f"{_HERE}.huggingface:HuggingFaceSource",
        "shards": f"{_HERE}.shards:ShardsSource",
    },
)
AnyOfAll = Source | GeneratedSource

__all__ = ["SOURCES", "AnyGeneratedSource", "AnySource", "make_source", "read_source", "recognise"]


def _from_mapping(value: Any) -> Any:
    """A source of a recipe's mapping, by its format; a source stays as it is."""
    if not isinstance(value, Mapping):
        return value
    if "format" not in value:
        raise ValueError(f"format is missing: one of {', '.join(SOURCES.names())}")
    return SOURCES[str(value["format"])].model_validate(dict(value))


# Fields of recipes: a mapping with a `format`, made into a source of that format.
AnySource = Annotated[Source, BeforeValidator(_from_mapping), SerializeAsAny()]
AnyGeneratedSource = Annotated[GeneratedSource, BeforeValidator(_from_mapping), SerializeAsAny()]


def make_source(settings: Mapping[str, Any], where: str) -> AnyOfAll:
    """A source of its settings; ValueError naming `where` and the first wrong key."""
    name = settings.get("format")
    if name not in SOURCES:
        raise ValueError(f"{where}: format: expected one of {', '.join(SOURCES.names())}")
    try:
        made: AnyOfAll = SOURCES[str(name)].model_validate(dict(settings))
        return made
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            told = f"unknown key of format {name}"
        elif first["type"] == "missing":
            told = f"is missing; format {name} needs it"
        else:
            told = f"{first['msg']}, got {str(first['input'])[:80]!r}"
        raise ValueError(f"{where}: {key}: {told}") from error


def read_source(path: Path, **changes: Any) -> AnyOfAll:
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


def _from_folder(source: AnyOfAll, folder: Path, kept: set[str]) -> dict[str, Any]:
    """The source's relative paths, but for `kept` ones, as they are seen from where the program runs."""
    values = {name: getattr(source, name) for name in type(source).model_fields if name not in kept}
    moved: dict[str, Any] = {
        name: folder / value for name, value in values.items() if isinstance(value, Path)
    }
    if values.get("hub") is False and isinstance(values.get("path"), str):
        moved["path"] = str(folder / values["path"])
    if "shards" in values:
        patterns = (values["shards"],) if isinstance(values["shards"], str) else values["shards"]
        moved["shards"] = tuple(p if "://" in p else str(folder / p) for p in patterns)
    return moved


def recognise(name: str, format: str | None = None, **settings: Any) -> AnyOfAll:
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
