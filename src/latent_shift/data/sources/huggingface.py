"""Rows of a Hugging Face `datasets` collection: a local folder, or a hub id where the network is allowed.

    pip install 'latent-shift[datasets]'

A row's clip or image may be a path, the file's bytes, or a column of the types Video and Image; it stays as
it is stored and is decoded by this package.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from latent_shift.data.caption_io import as_captions
from latent_shift.data.manifest import ClipRecord, LocalFile, Manifest, Problem, build_manifest
from latent_shift.data.sources.base import Source, piece_times
from latent_shift.io import one_line
from latent_shift.media import File, HeldFile, Kind


class HuggingFaceSource(Source):
    """One split of a collection of rows."""

    format: Literal["huggingface"] = "huggingface"
    path: str = Field(description="folder (of save_to_disk, or of parquet files), or hub id with hub: true")
    hub: bool = Field(False, description="whether `path` is a hub id, to be downloaded")
    split: str = "train"
    media_column: str = Field("video", description="path, bytes, Video or Image")
    caption_column: str = "caption"
    start_column: str | None = None
    end_column: str | None = None
    kind: Kind = Field("clip", description="what the column holds")

    def read(self) -> Manifest:
        """One record a row. Raises ValueError without the extra, the split or the columns."""
        table = _rows(self)
        named = [self.media_column, self.caption_column, self.start_column, self.end_column]
        missing = [name for name in named if name is not None and name not in table.column_names]
        if missing:
            raise ValueError(
                f"{self.path}: no column {missing[0]!r}; it has {', '.join(table.column_names)};"
                " set media_column, caption_column, start_column or end_column"
            )
        without_media = table.select_columns([name for name in named[1:] if name is not None])
        return build_manifest(self.path, [self._record(*row) for row in enumerate(without_media)])

    def _record(self, number: int, row: dict[str, Any]) -> ClipRecord | Problem:
        key = f"{self.path} row {number}"
        captions = as_captions(row[self.caption_column])
        if not captions:
            return Problem(key, f"{self.caption_column} is empty or no text")
        try:
            start, end = piece_times(row.get(self.start_column or ""), row.get(self.end_column or ""))
        except ValueError as error:
            return Problem(key, str(error))
        place = self.path.removesuffix(os.path.basename(self.path))
        return ClipRecord(key, RowFile(self, number), captions, self.kind, start, end, place=place)


@dataclass(frozen=True, slots=True)
class RowFile:
    """The file in a row's media column, read when it is opened."""

    source: HuggingFaceSource
    row: int

    def open(self) -> File:
        """The path or the bytes in the row. Raises ValueError where it holds neither."""
        value = _rows(self.source)[self.row][self.source.media_column]
        if isinstance(value, dict):  # of the types Video and Image, not decoded
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return HeldFile(str(self), value)
        if isinstance(value, str):
            return LocalFile(value).open()
        raise ValueError(
            f"{self}: {self.source.media_column} is {type(value).__name__}; expected a path or bytes"
        )

    def ends(self) -> bytes:
        """Empty: a row's media is read as a whole only."""
        return b""

    def __str__(self) -> str:
        return f"{self.source.path} row {self.row}"


def _refuse_damaged(files: Sequence[Path]) -> None:
    """Raise ValueError naming parquet files that are not whole: `datasets` does not name them."""
    damaged = []
    for file in (file for file in files if not file.name.startswith((".", "_"))):
        with suppress(OSError), file.open("rb") as opened:
            begin = opened.read(4)
            opened.seek(-min(4, file.stat().st_size), os.SEEK_END)
            if not begin == opened.read(4) == b"PAR1":
                damaged.append(str(file))
    if damaged:
        listed = ", ".join(damaged[:3]) + (f" and {len(damaged) - 3} more" if len(damaged) > 3 else "")
        raise ValueError(f"{listed}: no whole parquet, as of a download that broke off; fetch it again")


@lru_cache(maxsize=8)
def _rows(source: HuggingFaceSource) -> Any:
    """The collection's split, its videos and images not decoded; loaded once in each process."""
    try:
        import datasets
    except ImportError as error:
        mend = "pip install 'latent-shift[datasets]'"
        raise ValueError(f"{source.path}: format huggingface needs the package datasets: {mend}") from error
    folder = Path(source.path)
    if not source.hub and not folder.is_dir():
        raise ValueError(f"{source.path}: no such folder; set hub: true where it is a hub id")
    _refuse_damaged(() if source.hub else sorted(folder.rglob("*.parquet")))
    try:
        if source.hub or not any((folder / name).exists() for name in ("state.json", "dataset_dict.json")):
            table: Any = datasets.load_dataset(source.path, split=source.split)
        else:
            table = datasets.load_from_disk(source.path)
            table = table[source.split] if isinstance(table, datasets.DatasetDict) else table
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"{source.path} split {source.split!r}: cannot be read: {one_line(error)}"
        ) from error
    for name, feature in table.features.items():
        if isinstance(feature, datasets.Video | datasets.Image):
            table = table.cast_column(name, type(feature)(decode=False))
    return table
