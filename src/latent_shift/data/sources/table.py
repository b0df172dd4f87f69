"""A table of clips: .csv (or .tsv) with a header line, or .jsonl with an object a line.

    path,caption,start,end
    clips/a.mp4,a dog jumps,,
    clips/b.mov,a cat sleeps,12.5,20

start and end are optional, in seconds or hours:minutes:seconds. Several lines of one piece of a clip are
captions of one entry.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from latent_shift.data.caption_io import as_captions, read_text
from latent_shift.data.manifest import ClipRecord, Manifest, Problem, build_manifest
from latent_shift.data.sources.base import Source, file_entry, piece, sorted_out

Row = dict[str, Any]


class TableSource(Source):
    """A csv or jsonl file that names clips, captions and, if need be, pieces of the clips."""

    format: Literal["table"] = "table"
    path: Path = Field(description=".csv, .tsv or .jsonl")
    root: Path | None = Field(None, description="folder that the paths start from; none: the table's own")
    file_column: str = "path"
    caption_column: str = "caption"
    start_column: str = "start"
    end_column: str = "end"

    def read(self) -> Manifest:
        """One entry for each piece of a clip. Raises ValueError for a table without the columns."""
        text, notes = read_text(self.path)
        wanted: dict[tuple[str, float | None, float | None], list[str]] = {}
        problems: list[Problem] = []
        for where, row in rows(self.path, text, self._required()):
            if isinstance(row, str):
                problems.append(Problem(where, row))
                continue
            try:
                file, captions, start, end = self._values(row)
            except ValueError as error:
                problems.append(Problem(where, str(error)))
                continue
            wanted.setdefault((file, start, end), []).extend(captions)
        entries, more = sorted_out([self._entry(*place, said) for place, said in wanted.items()])
        return build_manifest(str(self.path), entries, problems + more, notes)

    def _required(self) -> list[str]:
        """Columns that must be there: a name for times that was set on purpose, too."""
        times = [name for name in ("start_column", "end_column") if name in self.model_fields_set]
        return [self.file_column, self.caption_column, *(getattr(self, name) for name in times)]

    def _values(self, row: Row) -> tuple[str, tuple[str, ...], float | None, float | None]:
        file, captions = row.get(self.file_column), as_captions(row.get(self.caption_column))
        if not isinstance(file, str) or not file.strip():
            raise ValueError(f"{self.file_column} is empty")
        if not captions:
            raise ValueError(f"{self.caption_column} is empty or no text")
        return file.strip(), captions, *piece(row.get(self.start_column), row.get(self.end_column))

    def _entry(
        self, file: str, start: float | None, end: float | None, captions: list[str]
    ) -> ClipRecord | Problem:
        times = (
            "" if start is None and end is None else f"@{start or 0:g}-{'' if end is None else f'{end:g}'}"
        )
        path = (self.path.parent if self.root is None else self.root) / file
        return file_entry(file + times, path, tuple(dict.fromkeys(captions)), start, end)


def rows(path: Path, text: str, required: list[str]) -> Iterator[tuple[str, Row | str]]:
    """The rows of a table with where they stand; a text in place of a broken row says what is wrong with it.

    Raises ValueError where the table lacks required columns (a .jsonl: where no line has them).
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".jsonl"):
        raise ValueError(f"table {path}: unknown suffix {suffix!r}; expected .csv, .tsv or .jsonl")
    yield from _json_rows(path, text, required) if suffix == ".jsonl" else _csv_rows(path, text, required)


def _csv_rows(path: Path, text: str, required: list[str]) -> Iterator[tuple[str, Row | str]]:
    table = csv.reader(
        io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ","
    )
    header = [name.strip() for name in next(table, [])]
    _check_columns(path, required, header)
    while True:
        line = table.line_num + 1
        try:
            cells = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"{path} line {line}", f"is no csv: {error}"
            continue
        if not cells:
            continue
        if len(cells) != len(header):
            told = f"has {len(cells)} cells, the header {len(header)}; put a text that holds commas in quotes"
            yield f"{path} line {line}", told
        else:
            yield f"{path} line {line}", dict(zip(header, cells, strict=True))


def _json_rows(path: Path, text: str, required: list[str]) -> Iterator[tuple[str, Row | str]]:
    missing: set[str] = set(required)
    parsed: list[tuple[str, Row | str]] = []
    keys: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            row = f"is not JSON: {error}"
        if isinstance(row, dict):
            missing -= row.keys()
            keys |= dict.fromkeys(row)
        elif not isinstance(row, str) or not row.startswith("is not JSON"):
            row = "is not a JSON object"
        parsed.append((f"{path} line {number}", row))
    if missing:
        _check_columns(path, required, list(keys))
    yield from parsed


def _check_columns(path: Path, required: list[str], found: list[str]) -> None:
    missing = [name for name in required if name not in found]
    if missing:
        raise ValueError(
            f"table {path}: no column {missing[0]!r}; it has {', '.join(found) or 'none'};"
            " rename it, or set file_column, caption_column, start_column, end_column"
        )
