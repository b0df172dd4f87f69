"""Collections of clips in the formats that people have: settings in, a `Manifest` out.

    source = read_source("clips.yaml")        # the settings of one source, with its format
    source = detect_source("clips/")          # or the format as the name shows it: a folder, a table, tars
    source.read().records

A new format is a class in a file here, and a line in `SOURCES` below; packages add more by entry points.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from latent_shift.data.sources.base import GeneratedSource, Source
from latent_shift.documents import read_yaml_mapping, validation_error
from latent_shift.registry import Registry

_HERE = "latent_shift.data.sources"
ARCHIVES = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar")
SOURCES = Registry(
    "format",
    "latent_shift.sources",
    {
        "folder": f"{_HERE}.local:FolderSource",
        "table": f"{_HERE}.local:TableSource",
        "msrvtt": f"{_HERE}.published:MsrvttSource",
        "ucf101": f"{_HERE}.published:Ucf101Source",
        "webvid": f"{_HERE}.published:WebvidSource",
        "huggingface": f"{_HERE}.huggingface:HuggingFaceSource",
        "shards": f"{_HERE}.shards:ShardsSource",
    },
)

__all__ = ["SOURCES", "AnyGeneratedSource", "AnySource", "detect_source", "make_source", "read_source"]


def _from_mapping(value: Any) -> Any:
    """A source of a recipe's mapping, by its format; a source stays unchanged."""
    if not isinstance(value, Mapping):
        return value
    if "format" not in value:
        raise ValueError(f"format is missing: one of {', '.join(SOURCES.names())}")
    return SOURCES[str(value["format"])].model_validate(dict(value))


# Fields of recipes: a mapping with a `format`, made into a source of that format.
AnySource = Annotated[Source, BeforeValidator(_from_mapping), SerializeAsAny()]
AnyGeneratedSource = Annotated[GeneratedSource, BeforeValidator(_from_mapping), SerializeAsAny()]


def make_source(settings: Mapping[str, Any], where: str) -> Source | GeneratedSource:
    """A source of its settings. Raises ValueError naming `where` and the first wrong key."""
    name = settings.get("format")
    if name not in SOURCES:
        raise ValueError(f"{where}: format: expected one of {', '.join(SOURCES.names())}")
    kind: type[Source] | type[GeneratedSource] = SOURCES[str(name)]
    try:
        return kind.model_validate(dict(settings))
    except ValidationError as error:
        raise ValueError(f"{where}: {validation_error(error, f'format {name}')}") from error


def read_source(path: Path, **changes: Any) -> Source | GeneratedSource:
    """A source from a YAML file with its settings; relative paths start from that file's folder.

    changes: settings that replace those of the file. Raises ValueError naming the file and the key.
    """
    source = make_source(read_yaml_mapping(path, "source") | changes, f"source {path}")
    return source.model_copy(update=_paths_from(path.parent, source, set(changes)))


def _paths_from(folder: Path, source: Source | GeneratedSource, kept: set[str]) -> dict[str, Any]:
    """The source's relative paths, except `kept` fields, as seen from the current folder."""
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


def detect_source(name: str, format: str | None = None, **settings: Any) -> Source | GeneratedSource:
    """A source of a name on a command line.

    name: a folder, a .csv, .tsv, .jsonl, .json or .yaml file, a pattern of tars, or the format of a generated
    source. format: where the name does not show it. settings: the format's other keys. Raises ValueError
    where the format is not clear, or a setting is wrong.
    """
    if "://" in name and format != "shards" and not name.lower().endswith(".tar"):
        raise ValueError(f"source {name}: only tars (shards) are read from the web; fetch it first")
    if name.lower().endswith((".yaml", ".yml")):
        changes = settings if format is None else {"format": format, **settings}
        return read_source(Path(name), **changes)
    if format is None and name in SOURCES and issubclass(SOURCES[name], GeneratedSource):
        return make_source({"format": name, **settings}, name)
    format = format or _format_of(name)
    key = "shards" if format == "shards" else "path"
    try:
        return make_source({"format": format, key: name, **settings}, name)
    except ValueError as error:
        if format != "msrvtt":
            raise
        raise ValueError(f"{error} (a list of clips of your own is a .jsonl, an object a line)") from error


def _format_of(name: str) -> str:
    suffix = PurePath(name).suffix.lower()
    if suffix == ".tar":
        return "shards"
    if suffix == ".json":
        return "msrvtt"
    if suffix in (".csv", ".tsv", ".jsonl"):
        return "table"
    folder = Path(name)
    if not name or not folder.is_dir():
        expected = "a folder, a .csv, .tsv, .jsonl, .json or .yaml file, or tars"
        wrong = "is no source by its name" if name and folder.exists() else "no such folder"
        if suffix in ARCHIVES and folder.exists():
            wrong = "is packed; unpack it first"
        raise ValueError(f"source {name!r}: {wrong}; expected {expected}")
    if any((folder / file).exists() for file in ("state.json", "dataset_dict.json")):
        return "huggingface"
    if any(folder.glob("*/v_*_g[0-9][0-9]_c[0-9][0-9].[aA][vV][iI]")):
        return "ucf101"
    tars = [path for path in folder.glob("*") if path.suffix.lower() == ".tar" and path.name[0] != "."]
    if tars:
        raise ValueError(f"source {name!r}: a folder of tars; name them, as in '{folder}/*{tars[0].suffix}'")
    return "folder"
